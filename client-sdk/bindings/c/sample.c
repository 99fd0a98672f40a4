/* A first call, a stream and a push, in C.
 *
 *     cc -std=c11 -I client-sdk/bindings/include client-sdk/bindings/c/sample.c -L target/debug -ltowline_ffi -o sample
 *     LD_LIBRARY_PATH=target/debug ./sample 127.0.0.1:7443 towline-data/dev-ca.pem      # with `towline dev` running
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "towline.h"

/* Callbacks come on another thread: each thing waited for is a count under a lock. */
struct waiting {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned count;
};
#define WAITING {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0}

static void happened(struct waiting *it) {
    pthread_mutex_lock(&it->lock);
    it->count++;
    pthread_cond_signal(&it->changed);
    pthread_mutex_unlock(&it->lock);
}

static void wait_for(struct waiting *it) {
    pthread_mutex_lock(&it->lock);
    while (it->count == 0) pthread_cond_wait(&it->changed, &it->lock);
    it->count--;
    pthread_mutex_unlock(&it->lock);
}

static void check(TowlineStatus status, TowlineError *error) {
    if (status == TOWLINE_STATUS_OK) return;
    fprintf(stderr, "failed: %s\n", towline_error_text(error));
    towline_error_free(error);
    exit(1);
}

static void on_state(void *user_data, const TowlineState *state) {
    static const char *names[] = {"connecting", "online", "offline", "closed"};
    if (state == NULL) {
        happened(user_data); /* user_data is not used any more */
        return;
    }
    printf("state: %s\n", names[state->state]);
}

static void on_response(void *user_data, const TowlineResponse *response, const TowlineError *error) {
    if (response == NULL) {
        printf("call: %s\n", towline_error_text(error));
    } else {
        TowlineBytes reply = towline_response_message(response, 0);
        /* EchoReply begins with a string: its tag, its length, its bytes. */
        printf("call: status %u, grpc-status %d, reply %.*s\n", towline_response_status(response),
               towline_response_grpc_status(response, NULL), reply.len > 2 ? reply.data[1] : 0, reply.data + 2);
    }
    happened(user_data);
}

static void on_event(void *user_data, const TowlineStreamEvent *event) {
    switch (event->event) {
    case TOWLINE_STREAM_HEAD: printf("stream: head %u\n", event->status); break;
    case TOWLINE_STREAM_MESSAGE: printf("stream: %zu bytes\n", event->message.len); break;
    default:
        printf("stream: end, grpc-status %d%s%s\n", event->grpc_code, event->error ? ": " : "",
               event->error ? towline_error_text(event->error) : "");
        happened(user_data);
    }
}

static void on_push(void *user_data, const TowlinePush *push) {
    if (push != NULL) printf("push: %s %.*s\n", push->topic, (int)push->payload.len, push->payload.data);
    happened(user_data);
}

static void on_done(void *user_data, const TowlineError *error) {
    if (error != NULL) fprintf(stderr, "failed: %s\n", towline_error_text(error));
    happened(user_data);
}

static char *read_file(const char *path) {
    FILE *file = fopen(path, "r");
    char *text = calloc(1, 1 << 20);
    if (file == NULL || text == NULL || fread(text, 1, (1 << 20) - 1, file) == 0) {
        perror(path);
        exit(1);
    }
    fclose(file);
    return text;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s HOST:PORT CA.pem\n", argv[0]);
        return 2;
    }
    TowlineError *error = NULL;
    TowlineOptions *options = towline_options_new();
    char *roots = read_file(argv[2]);
    check(towline_options_set(options, "endpoint", argv[1], &error), error);
    check(towline_options_set(options, "roots_pem", roots, &error), error);
    TowlineClient *client = NULL;
    check(towline_client_new(options, &client, &error), error);
    towline_options_free(options);
    free(roots);
    printf("towline %s, client %s\n", towline_version(), towline_client_id(client));

    struct waiting closed = WAITING;
    TowlineListener *states = NULL;
    check(towline_on_state(client, on_state, &closed, &states, &error), error);

    const uint8_t hello[] = {0x0a, 5, 'h', 'e', 'l', 'l', 'o'}; /* EchoRequest { text: "hello" } */
    TowlineRequest request = {.struct_size = sizeof request, .path = "/towline.demo.v1.Echo/Unary"};
    request.message = (TowlineBytes){hello, sizeof hello};
    request.deadline_ms = 10000;
    request.flags = TOWLINE_REQUEST_IDEMPOTENT | TOWLINE_REQUEST_NEEDS_ENCRYPTION;
    struct waiting answered = WAITING;
    check(towline_call(client, &request, on_response, &answered, NULL, &error), error);
    wait_for(&answered);

    TowlineRequest echo = {.struct_size = sizeof echo, .path = "/towline.demo.v1.Echo/BidiEcho"};
    struct waiting ended = WAITING;
    TowlineStream *stream = NULL;
    check(towline_stream_open(client, &echo, on_event, &ended, &stream, &error), error);
    for (int i = 0; i < 3; i++) {
        check(towline_stream_send(stream, request.message, NULL, NULL, &error), error);
    }
    check(towline_stream_finish(stream, NULL, NULL, &error), error);
    wait_for(&ended);
    towline_stream_free(stream);

    struct waiting pushed = WAITING, done = WAITING;
    TowlineListener *pushes = NULL;
    check(towline_on_push(client, on_push, &pushed, &pushes, &error), error);
    check(towline_subscribe(client, "greetings/#", on_done, &done, &error), error);
    wait_for(&done);
    TowlineBytes payload = {(const uint8_t *)"hi", 2};
    check(towline_publish(client, "greetings/c", payload, on_done, &done, &error), error);
    wait_for(&done);
    wait_for(&pushed);

    /* What the system says is passed on, here as if it had: nobody looks at the app, and somebody does again; cellular
     * is the network now, and Wi-Fi joins it while it still works. Where the one in use is gone, Wi-Fi too is told by
     * towline_network_changed. */
    check(towline_background(client, &error), error);
    check(towline_foreground(client, &error), error);
    check(towline_network_changed(client, TOWLINE_NETWORK_CELLULAR, TOWLINE_METERED_YES, NULL, "46001", &error), error);
    check(towline_network_joined(client, TOWLINE_NETWORK_WIFI, TOWLINE_METERED_NO, "home", NULL, &error), error);

    check(towline_client_shutdown(client, on_done, &done, &error), error);
    wait_for(&done);
    wait_for(&closed);
    wait_for(&pushed); /* the listeners' last calls, after which what they use may go */
    towline_listener_free(pushes);
    towline_listener_free(states);
    towline_client_free(client);
    return 0;
}
