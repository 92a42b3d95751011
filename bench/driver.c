/* Runs a compiled model as a program of its own, without Python: driver WEIGHTS ROUNDS

   Prints, as JSON: CPU seconds of the process until its first result, peak memory in MB until then, and the CPU and wall
   milliseconds of ROUNDS further runs. The bytes of the inputs are always the same. */

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

/* Pseudo-random bytes, whatever the input's type: no path through the model depends on them. */
static void *input(size_t size) {
  uint8_t *bytes = aligned(size);
  uint32_t state = 1;
  for (size_t i = 0; i < size; i++) {
    state = state * 1664525u + 1013904223u;
    bytes[i] = (uint8_t)(state >> 24);
  }
  return bytes;
}

static void require(int status) {
  if (status != QVIT_OK) {
    fprintf(stderr, "%s\n", qvit_message(status));
    exit(1);
  }
}

int main(int count, char **arguments) {
  if (count != 3) {
    fputs("usage: driver WEIGHTS ROUNDS\n", stderr);
    return 2;
  }
  int file = open(arguments[1], O_RDONLY);
  struct stat status;
  void *weights = MAP_FAILED;
  if (file >= 0 && fstat(file, &status) == 0) {
    weights = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
  }
  if (weights == MAP_FAILED) {
    perror(arguments[1]);
    return 1;
  }
  size_t rounds = strtoul(arguments[2], NULL, 10);
  const void **inputs = aligned(qvit_input_count() * sizeof *inputs);
  void **outputs = aligned(qvit_output_count() * sizeof *outputs);
  for (size_t i = 0; i < qvit_input_count(); i++) {
    inputs[i] = input(qvit_input(i)->bytes);
  }
  for (size_t i = 0; i < qvit_output_count(); i++) {
    outputs[i] = aligned(qvit_output(i)->bytes);
  }
  qvit_model model;
  require(qvit_init(&model, aligned(qvit_arena_size()), qvit_arena_size(), weights, (size_t)status.st_size));
  require(qvit_run(&model, inputs, outputs));
  int64_t start = nanoseconds(CLOCK_PROCESS_CPUTIME_ID);
  long peak = peak_memory();

  int64_t *cpu = aligned(rounds * sizeof *cpu), *wall = aligned(rounds * sizeof *wall);
  for (size_t i = 0; i < rounds; i++) {
    int64_t cpu_before = nanoseconds(CLOCK_PROCESS_CPUTIME_ID), wall_before = nanoseconds(CLOCK_MONOTONIC);
    require(qvit_run(&model, inputs, outputs));
    cpu[i] = nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - cpu_before;
    wall[i] = nanoseconds(CLOCK_MONOTONIC) - wall_before;
  }
  print("{\"start\": ", start, 1000000000);
  print(", \"peak\": ", peak, 1024);
  fputs(", \"cpu\": [", stdout);
  for (size_t i = 0; i < rounds; i++) {
    print(i ? ", " : "", cpu[i], 1000000);
  }
  fputs("], \"wall\": [", stdout);
  for (size_t i = 0; i < rounds; i++) {
    print(i ? ", " : "", wall[i], 1000000);
  }
  puts("]}");
  return 0;
}
