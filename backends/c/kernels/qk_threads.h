/* Threads that walk a list of steps together, for a program that is built with -DQVIT_THREADS=N, their most (POSIX). Each
 * computes its part of a step, and none begins the next step before all have met. Between runs, and wherever the others take
 * long, a thread sleeps.
 *
 * The macros are for model.c: what a program of one thread makes of them is as if there were no others.
 */
#ifndef QK_THREADS_H
#define QK_THREADS_H
#ifndef QVIT_THREADS
#define QVIT_THREADS 1
#endif
#if QVIT_THREADS > 1
#include <pthread.h>
#include <stddef.h>
#include <string.h>

/* Looks at the others before a thread sleeps, some 15 microseconds: about what sleeping and waking up take. */
enum { QK_SPINS = 500 };

/* One run: `run(job, part, parts)` is called in every thread. */
typedef void (*qk_run)(const void *job, size_t part, size_t parts);

/* parts = 1 and zeros: the caller's thread alone. */
typedef struct {
    pthread_mutex_t lock;  /* it and `wake` exist while there are other threads */
    pthread_cond_t wake;   /* `round` has changed while some slept */
    size_t parts, started; /* threads, the caller's included; of the others those that have a number; by `lock` */
    qk_run run;            /* NULL: the others end */
    const void *job;
    unsigned arrived, round, asleep; /* atomic: threads that have met this time, how often all have, and those that sleep */
    pthread_t others[QVIT_THREADS];
} qk_pool;

/* Where a part of `extent` things begins, whole grains of them; it ends where the next one begins. */
static inline size_t qk_part(size_t extent, size_t grain, size_t part, size_t parts)
{
    const size_t at = (extent + grain - 1) / grain * part / parts * grain;
    return at < extent ? at : extent;
}

static inline void qk_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Returns when `parts` threads are here. What each wrote before, all can read behind. */
static void qk_meet(qk_pool *pool, size_t parts)
{
    const unsigned round = __atomic_load_n(&pool->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&pool->arrived, 1, __ATOMIC_ACQ_REL) == parts) {
        __atomic_store_n(&pool->arrived, 0, __ATOMIC_RELAXED);
        /* either a thread that falls asleep sees the new round, or it is seen here */
        __atomic_store_n(&pool->round, round + 1, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&pool->asleep, __ATOMIC_SEQ_CST)) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_broadcast(&pool->wake);
            pthread_mutex_unlock(&pool->lock);
        }
        return;
    }
    for (int i = 0; i < QK_SPINS; i++) {
        if (__atomic_load_n(&pool->round, __ATOMIC_ACQUIRE) != round) return;
        qk_pause();
    }
    pthread_mutex_lock(&pool->lock);
    __atomic_add_fetch(&pool->asleep, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&pool->round, __ATOMIC_SEQ_CST) == round) pthread_cond_wait(&pool->wake, &pool->lock);
    __atomic_sub_fetch(&pool->asleep, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&pool->lock);
}

static void *qk_other(void *argument)
{
    qk_pool *pool = (qk_pool *)argument;
    pthread_mutex_lock(&pool->lock); /* the caller has it until all are there */
    const size_t part = ++pool->started, parts = pool->parts;
    pthread_mutex_unlock(&pool->lock);
    for (;;) {
        qk_meet(pool, parts);
        if (!pool->run) return NULL;
        pool->run(pool->job, part, parts);
    }
}

/* The caller's part of a run; `run` ends with a meeting. */
static void qk_run_all(qk_pool *pool, qk_run run, const void *job)
{
    const size_t parts = pool->parts;
    pool->run = run;
    pool->job = job;
    if (parts > 1) qk_meet(pool, parts);
    if (run) run(job, 0, parts);
}

/* Ends all threads but the caller's. */
static void qk_stop(qk_pool *pool)
{
    if (pool->parts > 1) {
        qk_run_all(pool, NULL, NULL);
        for (size_t i = 1; i < pool->parts; i++) pthread_join(pool->others[i], NULL);
        pthread_cond_destroy(&pool->wake);
        pthread_mutex_destroy(&pool->lock);
    }
    memset(pool, 0, sizeof *pool);
    pool->parts = 1;
}

/* 0, or -1 where a thread could not be started: then there is the caller's alone. 1 <= n <= QVIT_THREADS */
static int qk_set_threads(qk_pool *pool, size_t n)
{
    if (n == pool->parts) return 0;
    qk_stop(pool);
    if (n == 1) return 0;
    if (pthread_mutex_init(&pool->lock, NULL)) return -1;
    if (pthread_cond_init(&pool->wake, NULL)) {
        pthread_mutex_destroy(&pool->lock);
        return -1;
    }
    pthread_mutex_lock(&pool->lock);
    while (pool->parts < n && !pthread_create(&pool->others[pool->parts], NULL, qk_other, pool)) pool->parts++;
    const int failed = pool->parts < n;
    pthread_mutex_unlock(&pool->lock);
    if (!failed) return 0;
    if (pool->parts == 1) {
        pthread_cond_destroy(&pool->wake);
        pthread_mutex_destroy(&pool->lock);
    }
    qk_stop(pool);
    return -1;
}

/* Behind what is planned of the arena: the pool, and scratch for each thread but the caller's. */
#define POOL(model) ((qk_pool *)(void *)((model)->arena + PLANNED))
#define POOL_SIZE ((sizeof(qk_pool) + 63) / 64 * 64)
#define THREADS (POOL_SIZE + (QVIT_THREADS - 1) * (size_t)SCRATCHES)
#define SCRATCH(offset) (part ? arena + PLANNED + POOL_SIZE + (part - 1) * SCRATCHES : arena + (offset))
#define SHARE(extent, grain) qk_part(extent, grain, part, parts), qk_part(extent, grain, part + 1, parts)
#define ONE if (part == 0)
#define MEET() qk_meet((qk_pool *)(void *)(arena + PLANNED), parts)
#else
#define THREADS 0
#define SCRATCH(offset) (arena + (offset))
#define SHARE(extent, grain) 0, extent
#define ONE
#define MEET() ((void)0)
#endif
#endif
