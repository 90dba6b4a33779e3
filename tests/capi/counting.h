/* Counts that callbacks change on threads of the library, and that tests wait for. */
#ifndef COUNTING_H
#define COUNTING_H

#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static inline void add(int *count)
{
    pthread_mutex_lock(&lock);
    ++*count;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static inline int look(const int *count)
{
    pthread_mutex_lock(&lock);
    int value = *count;
    pthread_mutex_unlock(&lock);
    return value;
}

/* Until one of both is as large. */
static inline void await_either(const int *count, int value, const int *other, int other_value)
{
    pthread_mutex_lock(&lock);
    while (*count < value && *other < other_value) {
        pthread_cond_wait(&changed, &lock);
    }
    pthread_mutex_unlock(&lock);
}

static inline void await(const int *count, int value)
{
    await_either(count, value, count, value);
}

#endif
