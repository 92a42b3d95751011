/* Runs the model once: main [-t THREADS] WEIGHTS INPUT... OUTPUT..., files of plain elements, one for each tensor of the
 * model. */
#define _POSIX_C_SOURCE 200809L

#include "model.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#define MAPPED
#endif

static int fail(const char *what, const char *message) {
    fprintf(stderr, "%s: %s\n", what, message);
    return 1;
}

/* All memory that is allocated, as a list: it lives until the program ends. */
static void *allocated = NULL;

/* `size` bytes that start at a multiple of 64; NULL where there are not as many. */
static void *allocate(size_t size) {
    char *memory = (char *)malloc(size + 64 + sizeof allocated);
    if (!memory) {
        return NULL;
    }
    memcpy(memory, &allocated, sizeof allocated);
    allocated = memory;
    memory += sizeof allocated;
    return memory + (64 - (uintptr_t)memory % 64);
}

/* The whole file; NULL where it cannot be read. */
static void *contents(const char *path, size_t *size) {
#ifdef MAPPED
    struct stat status;
    const int file = open(path, O_RDONLY);
    if (file < 0) {
        return NULL;
    }
    void *memory = MAP_FAILED;
    if (fstat(file, &status) == 0 && status.st_size > 0) {
        *size = (size_t)status.st_size;
        memory = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, file, 0);
    }
    close(file);
    return memory == MAP_FAILED ? NULL : memory;
#else
    FILE *file = fopen(path, "rb");
    void *memory = NULL;
    if (file && fseek(file, 0, SEEK_END) == 0) {
        const long end = ftell(file);
        if (end > 0 && fseek(file, 0, SEEK_SET) == 0 && (memory = allocate((size_t)end)) != NULL) {
            *size = fread(memory, 1, (size_t)end, file);
        }
    }
    if (file) {
        fclose(file);
    }
    return memory;
#endif
}

int main(int count, char **arguments) {
    const size_t inputs = qvit_input_count(), outputs = qvit_output_count();
    size_t threads = 1;
    if (count > 2 && strcmp(arguments[1], "-t") == 0) {
        char *end;
        threads = (size_t)strtoul(arguments[2], &end, 10);
        threads = *end ? 0 : threads;
        count -= 2;
        arguments += 2;
    }
    if ((size_t)count != 2 + inputs + outputs) {
        fprintf(stderr, "usage: main [-t THREADS] WEIGHTS");
        for (size_t i = 0; i < inputs; ++i) {
            fprintf(stderr, " INPUT:%s", qvit_input(i)->name);
        }
        for (size_t i = 0; i < outputs; ++i) {
            fprintf(stderr, " OUTPUT:%s", qvit_output(i)->name);
        }
        fprintf(stderr, "\n");
        return 2;
    }
    size_t size = 0;
    const void *weights = contents(arguments[1], &size);
    if (!weights) {
        return fail(arguments[1], "cannot be read");
    }
    qvit_model model;
    const int status = qvit_init(&model, allocate(qvit_arena_size()), qvit_arena_size(), weights, size);
    if (status != QVIT_OK) {
        return fail(arguments[1], qvit_message(status));
    }
    const int started = qvit_set_threads(&model, threads);
    if (started != QVIT_OK) {
        return fail("-t", qvit_message(started));
    }
    const void **from = (const void **)allocate((inputs + 1) * sizeof *from);
    void **to = (void **)allocate((outputs + 1) * sizeof *to);
    if (!from || !to) {
        return fail("main", "not enough memory");
    }
    for (size_t i = 0; i < inputs; ++i) {
        const char *path = arguments[2 + i];
        from[i] = contents(path, &size);
        if (!from[i]) {
            return fail(path, "cannot be read");
        }
        if (size != qvit_input(i)->bytes) {
            fprintf(stderr, "%s: expected %zu bytes, found %zu\n", path, qvit_input(i)->bytes, size);
            return 1;
        }
    }
    for (size_t i = 0; i < outputs; ++i) {
        to[i] = allocate(qvit_output(i)->bytes);
        if (!to[i]) {
            return fail("main", "not enough memory");
        }
    }
    const int result = qvit_run(&model, from, to);
    qvit_set_threads(&model, 1);
    if (result != QVIT_OK) {
        return fail("main", qvit_message(result));
    }
    for (size_t i = 0; i < outputs; ++i) {
        const char *path = arguments[2 + inputs + i];
        FILE *file = fopen(path, "wb");
        const size_t bytes = qvit_output(i)->bytes;
        const int written = file && fwrite(to[i], 1, bytes, file) == bytes;
        if (!file || fclose(file) != 0 || !written) {
            return fail(path, "cannot be written");
        }
    }
    return 0;
}
