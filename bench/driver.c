/* Runs a compiled model as a program of its own, without Python: driver WEIGHTS INPUT_BYTES OUTPUT_BYTES ROUNDS

   Prints, as JSON: CPU seconds of the process until its first result, peak memory in MB until then, and the CPU and wall
   milliseconds of ROUNDS further runs. One input and one output; the input's bytes are always the same. */

#define _POSIX_C_SOURCE 200809L

#include "model.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int64_t nanoseconds(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void *aligned(size_t size) {
  void *memory;
  if (posix_memalign(&memory, 64, size > 0 ? size : 64) != 0) {
    fputs("out of memory\n", stderr);
    exit(1);
  }
  return memory;
}

/* Six decimals of a number of nanoseconds, in integers: the program is as free of floats as the model. */
static void print(const char *before, int64_t value, int64_t unit) {
  printf("%s%" PRId64 ".%06" PRId64, before, value / unit, value % unit * 1000000 / unit);
}

/* KB that this process had resident at most. getrusage would count the parent's too, which a child starts from. */
static long peak_memory(void) {
  FILE *status = fopen("/proc/self/status", "r");
  long kilobytes = 0;
  for (char line[256]; status != NULL && fgets(line, sizeof line, status) != NULL;) {
    if (strncmp(line, "VmHWM:", 6) == 0) {
      kilobytes = strtol(line + 6, NULL, 10);
    }
  }
  if (status != NULL) {
    fclose(status);
  }
  return kilobytes;
}

int main(int count, char **arguments) {
  if (count != 5) {
    fputs("usage: driver WEIGHTS INPUT_BYTES OUTPUT_BYTES ROUNDS\n", stderr);
    return 2;
  }
  int file = open(arguments[1], O_RDONLY);
  struct stat status;
  if (file < 0 || fstat(file, &status) != 0) {
    perror(arguments[1]);
    return 1;
  }
  size_t weights_size = (size_t)status.st_size;
  void *weights = mmap(NULL, weights_size, PROT_READ, MAP_PRIVATE, file, 0);
  if (weights == MAP_FAILED) {
    perror(arguments[1]);
    return 1;
  }
  size_t input_size = strtoul(arguments[2], NULL, 10), output_size = strtoul(arguments[3], NULL, 10);
  long rounds = strtol(arguments[4], NULL, 10);
  uint8_t *input = aligned(input_size);
  uint32_t state = 1;
  for (size_t i = 0; i < input_size; i++) {
    state = state * 1664525u + 1013904223u;
    input[i] = (uint8_t)(state >> 24);
  }
  const void *inputs[] = {input};
  void *outputs[] = {aligned(output_size)};

  size_t arena_size = qvit_arena_size();
  qvit_model model;
  int error = qvit_init(&model, aligned(arena_size), arena_size, weights, weights_size);
  if (error != 0) {
    fprintf(stderr, "qvit_init: error %d\n", error);
    return 1;
  }
  qvit_run(&model, inputs, outputs);
  int64_t start = nanoseconds(CLOCK_PROCESS_CPUTIME_ID);
  long peak = peak_memory();

  int64_t *cpu = aligned((size_t)rounds * sizeof *cpu), *wall = aligned((size_t)rounds * sizeof *wall);
  for (long i = 0; i < rounds; i++) {
    int64_t cpu_before = nanoseconds(CLOCK_PROCESS_CPUTIME_ID), wall_before = nanoseconds(CLOCK_MONOTONIC);
    qvit_run(&model, inputs, outputs);
    cpu[i] = nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - cpu_before;
    wall[i] = nanoseconds(CLOCK_MONOTONIC) - wall_before;
  }
  print("{\"start\": ", start, 1000000000);
  print(", \"peak\": ", peak, 1024);
  fputs(", \"cpu\": [", stdout);
  for (long i = 0; i < rounds; i++) {
    print(i ? ", " : "", cpu[i], 1000000);
  }
  fputs("], \"wall\": [", stdout);
  for (long i = 0; i < rounds; i++) {
    print(i ? ", " : "", wall[i], 1000000);
  }
  puts("]}");
  return 0;
}
