/* One input of a fuzzer: a program is given files through its own main, or memory of exactly the size that it asks for.
 *
 * Data: a byte of flags, then for each file, the weights first, its length in 2 bytes and its bytes; what is beyond the end is
 * missing. Built with the emitted model.c and weights.c, from which sound weights come. */
#define _POSIX_C_SOURCE 200809L

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { MOST = 64, MAIN = 1, SOUND_WEIGHTS = 2, FULL_INPUTS = 4, SHORT_ARENA = 8 };

static char printed[4096];
static struct {
    void *start;
    size_t size;
} mapped[MOST];
static int maps;

static void *recorded(void *start, size_t size, int protection, int flags, int file, off_t offset) {
    void *found = mmap(start, size, protection, flags, file, offset);
    if (found != MAP_FAILED) {
        mapped[maps].start = found;
        mapped[maps++].size = size;
    }
    return found;
}

#define main program_main
#define mmap recorded
#define fprintf(file, ...) ((void)snprintf(printed, sizeof printed, __VA_ARGS__))
#include "main.c"
#undef main
#undef mmap
#undef fprintf

extern const unsigned char qvit_weights[];
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A file of the data. */
typedef struct {
    const uint8_t *start;
    size_t size;
} part;

static part next(const uint8_t **data, size_t *left) {
    part found = {*data, 0};
    if (*left >= 2) {
        const size_t wanted = (size_t)(*data)[0] | (size_t)(*data)[1] << 8;
        *data += 2;
        *left -= 2;
        found.start = *data;
        found.size = wanted < *left ? wanted : *left;
        *data += found.size;
        *left -= found.size;
    }
    return found;
}

/* The bytes as memory of their own, followed by zeros up to `size`. */
static void *own(part bytes, size_t size) {
    void *memory = NULL;
    if (posix_memalign(&memory, 64, size ? size : 1) != 0) {
        abort();
    }
    memset(memory, 0, size);
    memcpy(memory, bytes.start, bytes.size < size ? bytes.size : size);
    return memory;
}

static void by_main(part weights, const part *inputs) {
    static char names[2 * MOST][256];
    char *arguments[2 * MOST + 2] = {names[0], names[1]};
    const int count = (int)(2 + qvit_input_count() + qvit_output_count());
    for (int i = 1; i < count; ++i) {
        snprintf(names[i], sizeof names[i], "%s/qvit-fuzz-%d-%d", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", (int)getpid(), i);
        arguments[i] = names[i];
        const size_t k = (size_t)i - 2;
        if (i == 1 || k < qvit_input_count()) {
            FILE *file = fopen(names[i], "wb");
            const part content = i == 1 ? weights : inputs[k];
            if (!file || fwrite(content.start, 1, content.size, file) != content.size || fclose(file) != 0) {
                abort();
            }
        }
    }
    (void)program_main(count, arguments);
    for (int i = 1; i < count; ++i) {
        remove(names[i]);
    }
    while (maps > 0) {
        --maps;
        munmap(mapped[maps].start, mapped[maps].size);
    }
    while (allocated) {
        void *before;
        memcpy(&before, allocated, sizeof before);
        free(allocated);
        allocated = before;
    }
}

static void by_memory(unsigned flags, part weights, const part *inputs) {
    const size_t arena_size = qvit_arena_size() - (flags & SHORT_ARENA ? 64 : 0);
    const part nothing = {(const uint8_t *)"", 0};
    void *arena = own(nothing, arena_size), *blob = own(weights, weights.size);
    const void *from[MOST];
    void *to[MOST];
    for (size_t i = 0; i < qvit_input_count(); ++i) {
        from[i] = own(inputs[i], qvit_input(i)->bytes);
    }
    for (size_t i = 0; i < qvit_output_count(); ++i) {
        to[i] = own(nothing, qvit_output(i)->bytes);
    }
    qvit_model model;
    const int status = qvit_init(&model, arena, arena_size, blob, weights.size);
    if (status == QVIT_OK) {
        const unsigned char *body = (const unsigned char *)blob + 64;
        if (flags & SHORT_ARENA || weights.size < qvit_weights_size() ||
            memcmp(body, qvit_weights + 64, qvit_weights_size() - 64) != 0) {
            abort(); /* accepted what is wrong */
        }
        (void)qvit_run(&model, from, to);
    }
    for (size_t i = 0; i < qvit_input_count(); ++i) {
        free((void *)(uintptr_t)from[i]);
    }
    for (size_t i = 0; i < qvit_output_count(); ++i) {
        free(to[i]);
    }
    free(arena);
    free(blob);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    const unsigned flags = *data++;
    --size;
    const part sound = {qvit_weights, qvit_weights_size()}, given = next(&data, &size);
    part inputs[MOST];
    static uint8_t codes[MOST][1 << 12];
    for (size_t i = 0; i < qvit_input_count() && i < MOST; ++i) {
        inputs[i] = next(&data, &size);
        if (flags & FULL_INPUTS && qvit_input(i)->bytes <= sizeof codes[i] && inputs[i].size < qvit_input(i)->bytes) {
            /* what there is, again and again: codes of which most fit */
            for (size_t k = 0; k < qvit_input(i)->bytes; ++k) {
                codes[i][k] = inputs[i].size ? inputs[i].start[k % inputs[i].size] : 0;
            }
            inputs[i].start = codes[i];
            inputs[i].size = qvit_input(i)->bytes;
        }
    }
    const part weights = flags & SOUND_WEIGHTS ? sound : given;
    if (flags & MAIN) {
        by_main(weights, inputs);
    } else {
        by_memory(flags, weights, inputs);
    }
    return 0;
}
