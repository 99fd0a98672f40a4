/* How a test in C stops, and how it waits for callbacks, which come on another thread. */
#ifndef EXPECT_H
#define EXPECT_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define EXPECT(condition)                                                        \
    do {                                                                         \
        if (!(condition)) {                                                      \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                             \
        }                                                                        \
    } while (0)

static pthread_mutex_t counts_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t counts_changed = PTHREAD_COND_INITIALIZER;

static inline void count(unsigned *what) {
    pthread_mutex_lock(&counts_lock);
    ++*what;
    pthread_cond_broadcast(&counts_changed);
    pthread_mutex_unlock(&counts_lock);
}

static inline void wait_for_count(unsigned *what, unsigned expected) {
    pthread_mutex_lock(&counts_lock);
    while (*what < expected) pthread_cond_wait(&counts_changed, &counts_lock);
    pthread_mutex_unlock(&counts_lock);
}

#endif
