/* A call that one client takes in, and whose outcome the next one has: durable HOST:PORT IDENTITY. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "towline.h"

#define EXPECT(condition)                                                        \
    do {                                                                         \
        if (!(condition)) {                                                      \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                             \
        }                                                                        \
    } while (0)

/* What callbacks were told, under a lock. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned done, failed, outcomes, ended;
} told = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, 0, 0};

static void count(unsigned *what) {
    pthread_mutex_lock(&told.lock);
    ++*what;
    pthread_cond_broadcast(&told.changed);
    pthread_mutex_unlock(&told.lock);
}

static void wait_for(unsigned *what, unsigned expected) {
    pthread_mutex_lock(&told.lock);
    while (*what < expected) pthread_cond_wait(&told.changed, &told.lock);
    pthread_mutex_unlock(&told.lock);
}

static void on_done(void *user_data, const TowlineError *error) {
    (void)user_data;
    if (error != NULL) {
        EXPECT(towline_error_status(error) == TOWLINE_STATUS_ARGUMENT);
        EXPECT(strcmp(towline_error_subject(error), "key") == 0);
        count(&told.failed);
    }
    count(&told.done);
}

static void on_outcome(void *user_data, const TowlineOutcome *outcome) {
    EXPECT(user_data == &told);
    if (outcome == NULL) {
        count(&told.ended);
        return;
    }
    EXPECT(strcmp(outcome->key, "order-1") == 0);
    EXPECT(outcome->tag.len == 4 && memcmp(outcome->tag.data, "cart", 4) == 0);
    EXPECT(outcome->error == NULL && towline_response_status(outcome->response) == 200);
    EXPECT(towline_response_grpc_status(outcome->response, NULL) == 0);
    count(&told.outcomes);
}

static void check(TowlineStatus status, TowlineError *error) {
    if (status != TOWLINE_STATUS_OK) fprintf(stderr, "failed: %s\n", towline_error_text(error));
    EXPECT(status == TOWLINE_STATUS_OK);
}

static TowlineClient *client_of(char **argv) {
    TowlineError *error = NULL;
    TowlineOptions *options = towline_options_new();
    check(towline_options_set(options, "endpoint", argv[1], &error), error);
    check(towline_options_set(options, "plaintext", "true", &error), error);
    check(towline_options_set(options, "identity_file", argv[2], &error), error);
    TowlineClient *client = NULL;
    check(towline_client_new(options, &client, &error), error);
    towline_options_free(options);
    return client;
}

static void close_client(TowlineClient *client) {
    TowlineError *error = NULL;
    unsigned before = told.done;
    check(towline_client_shutdown(client, on_done, NULL, &error), error);
    wait_for(&told.done, before + 1);
    towline_client_free(client);
}

int main(int argc, char **argv) {
    EXPECT(argc == 3);
    TowlineError *error = NULL;
    const uint8_t pay[] = {0x0a, 3, 'p', 'a', 'y'}; /* EchoRequest { text: "pay" } */
    TowlineRequest request = {.struct_size = sizeof request, .path = "/towline.demo.v1.Echo/Unary"};
    request.message = (TowlineBytes){pay, sizeof pay};
    TowlineBytes tag = {(const uint8_t *)"cart", 4};

    TowlineClient *first = client_of(argv);
    EXPECT(towline_submit(first, &request, NULL, tag, on_done, NULL, &error) == TOWLINE_STATUS_ARGUMENT);
    towline_error_free(error);
    check(towline_submit(first, &request, "order-1", tag, on_done, NULL, &error), error);
    wait_for(&told.done, 1);
    close_client(first);

    TowlineClient *next = client_of(argv);
    TowlineListener *outcomes = NULL;
    check(towline_on_outcome(next, on_outcome, &told, &outcomes, &error), error);
    wait_for(&told.outcomes, 1);
    check(towline_acknowledge(next, "order-1", on_done, NULL, &error), error);
    wait_for(&told.done, 3);
    EXPECT(told.failed == 0);
    check(towline_acknowledge(next, "order-1", on_done, NULL, &error), error);
    wait_for(&told.failed, 1);
    wait_for(&told.done, 4);
    close_client(next);
    wait_for(&told.ended, 1);
    EXPECT(told.outcomes == 1);
    towline_listener_free(outcomes);
    puts("everything was as it should be");
    return 0;
}
