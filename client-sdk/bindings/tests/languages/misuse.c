/* What goes wrong, and how C is told. Prints one line for each that was as it should be. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <threads.h>

#include "expect.h"
#include "towline.h"

TowlineStatus towline_panic_probe(TowlineError **error);

static void refused(TowlineStatus status, TowlineError *error, TowlineStatus expected, const char *subject) {
    EXPECT(status == expected);
    EXPECT(error != NULL && towline_error_status(error) == expected);
    EXPECT(strcmp(towline_error_subject(error), subject) == 0);
    EXPECT(strlen(towline_error_text(error)) > 0);
    printf("%s\n", towline_error_text(error));
    towline_error_free(error);
}

/* The error is there once the call was made. */
#define REFUSED(call, expected, subject)              \
    do {                                              \
        TowlineStatus status = (call);                \
        refused(status, error, (expected), (subject)); \
    } while (0)

struct outcome {
    atomic_int told;
    TowlineStatus status;
    uint32_t kind, execution;
    int32_t grpc;
    int64_t elapsed_us;
};

static void on_response(void *user_data, const TowlineResponse *response, const TowlineError *error) {
    struct outcome *outcome = user_data;
    outcome->status = towline_error_status(error);
    outcome->kind = towline_error_kind(error);
    outcome->execution = towline_error_execution(error);
    outcome->grpc = towline_response_grpc_status(response, NULL);
    TowlineTimeline timeline;
    outcome->elapsed_us = -1;
    if (towline_response_timeline(response, &timeline) || towline_error_timeline(error, &timeline)) {
        outcome->elapsed_us = timeline.elapsed_us;
    }
    atomic_fetch_add(&outcome->told, 1);
}

static void on_done(void *user_data, const TowlineError *error) {
    struct outcome *outcome = user_data;
    outcome->status = towline_error_status(error);
    atomic_fetch_add(&outcome->told, 1);
}

static void wait_for(struct outcome *outcome) {
    while (atomic_load(&outcome->told) == 0) thrd_yield();
    atomic_store(&outcome->told, 0);
}

/* A callback may call anything, the client's end too. */
static TowlineClient *the_client;
static void call_again(void *user_data, const TowlineResponse *response, const TowlineError *error) {
    (void)response, (void)error;
    TowlineRequest request = {.struct_size = sizeof request, .path = "/hello", .method = "GET"};
    EXPECT(towline_call(the_client, &request, on_response, user_data, NULL, NULL) == TOWLINE_STATUS_OK);
}

static TowlineOptions *options_of(const char *endpoint) {
    TowlineOptions *options = towline_options_new();
    EXPECT(towline_options_set(options, "endpoint", endpoint, NULL) == TOWLINE_STATUS_OK);
    return options;
}

int main(int argc, char **argv) {
    EXPECT(argc == 2);
    TowlineError *error = NULL;
    TowlineClient *client = NULL;

    /* Options. */
    TowlineOptions *options = options_of(argv[1]);
    REFUSED(towline_client_new(options, &client, &error), TOWLINE_STATUS_CONFIG, "roots_pem");
    EXPECT(client == NULL);
    towline_options_set(options, "roots_pem", "no PEM", NULL);
    REFUSED(towline_client_new(options, &client, &error), TOWLINE_STATUS_CONFIG, "roots_pem");
    towline_options_free(options);
    options = options_of("https://edge.example");
    towline_options_set(options, "plaintext", "true", NULL);
    REFUSED(towline_client_new(options, &client, &error), TOWLINE_STATUS_CONFIG, "endpoints[0]");
    REFUSED(towline_options_set(options, "plaintext", "yes", &error), TOWLINE_STATUS_CONFIG, "plaintext");
    REFUSED(towline_options_set(options, "colour", "red", &error), TOWLINE_STATUS_CONFIG, "colour");
    REFUSED(towline_options_set(options, "agent", "\xff", &error), TOWLINE_STATUS_ARGUMENT, "value");
    REFUSED(towline_options_set(NULL, "agent", "a", &error), TOWLINE_STATUS_ARGUMENT, "options");
    REFUSED(towline_client_new(NULL, &client, &error), TOWLINE_STATUS_ARGUMENT, "options");
    towline_options_free(options);

    /* A panic. */
    REFUSED(towline_panic_probe(&error), TOWLINE_STATUS_INTERNAL, "");

    options = options_of(argv[1]);
    towline_options_set(options, "plaintext", "true", NULL);
    EXPECT(towline_client_new(options, &client, &error) == TOWLINE_STATUS_OK && error == NULL);
    towline_options_free(options);
    the_client = client;

    /* Arguments. */
    struct outcome outcome = {0};
    TowlineRequest request = {.struct_size = sizeof request, .path = "/hello", .method = "GET"};
    REFUSED(towline_call(client, NULL, on_response, &outcome, NULL, &error), TOWLINE_STATUS_ARGUMENT, "request");
    REFUSED(towline_call(client, &request, NULL, &outcome, NULL, &error), TOWLINE_STATUS_ARGUMENT, "on_response");
    /* A handle that is not made is NULL, so that it may be freed. */
    TowlineCall *unmade = (TowlineCall *)&outcome;
    TowlineStream *stream = (TowlineStream *)&outcome;
    TowlineListener *listener = (TowlineListener *)&outcome;
    EXPECT(towline_call(client, NULL, on_response, &outcome, &unmade, NULL) != TOWLINE_STATUS_OK && unmade == NULL);
    EXPECT(towline_stream_open(client, NULL, NULL, NULL, &stream, NULL) != TOWLINE_STATUS_OK && stream == NULL);
    EXPECT(towline_on_push(client, NULL, NULL, &listener, NULL) != TOWLINE_STATUS_OK && listener == NULL);
    towline_call_free(unmade);
    TowlineRequest wrong = request;
    wrong.struct_size = 8;
    REFUSED(towline_call(client, &wrong, on_response, &outcome, NULL, &error), TOWLINE_STATUS_ARGUMENT,
            "request.struct_size");
    wrong = request;
    wrong.path = "/\xff";
    REFUSED(towline_call(client, &wrong, on_response, &outcome, NULL, &error), TOWLINE_STATUS_ARGUMENT,
            "request.path");
    wrong = request;
    wrong.message.len = 1;
    REFUSED(towline_call(client, &wrong, on_response, &outcome, NULL, &error), TOWLINE_STATUS_ARGUMENT,
            "request.message");
    wrong = request;
    wrong.flags = 8;
    REFUSED(towline_call(client, &wrong, on_response, &outcome, NULL, &error), TOWLINE_STATUS_ARGUMENT,
            "request.flags");
    REFUSED(towline_network_changed(client, 99, 0, NULL, NULL, &error), TOWLINE_STATUS_ARGUMENT, "kind");
    REFUSED(towline_network_joined(client, 3, 99, NULL, NULL, &error), TOWLINE_STATUS_ARGUMENT, "metered");
    EXPECT(atomic_load(&outcome.told) == 0);

    /* Found when it is read: the callback is told. */
    wrong = request;
    wrong.path = "https://edge/hello";
    EXPECT(towline_call(client, &wrong, on_response, &outcome, NULL, NULL) == TOWLINE_STATUS_OK);
    wait_for(&outcome);
    EXPECT(outcome.status == TOWLINE_STATUS_ARGUMENT);
    wrong = request;
    wrong.flags = TOWLINE_REQUEST_NEEDS_ENCRYPTION;
    EXPECT(towline_call(client, &wrong, on_response, &outcome, NULL, NULL) == TOWLINE_STATUS_OK);
    wait_for(&outcome);
    EXPECT(outcome.kind == TOWLINE_KIND_ENCRYPTION_REQUIRED && outcome.execution == TOWLINE_EXECUTION_NOT_RUN);

    /* A backend's status is an answer. EchoRequest { fail_with_code: 5 } */
    const uint8_t fail[] = {0x28, 5};
    TowlineRequest echo = {.struct_size = sizeof echo, .path = "/towline.demo.v1.Echo/Unary"};
    echo.message = (TowlineBytes){fail, sizeof fail};
    EXPECT(towline_call(client, &echo, on_response, &outcome, NULL, NULL) == TOWLINE_STATUS_OK);
    wait_for(&outcome);
    EXPECT(outcome.status == TOWLINE_STATUS_OK && outcome.grpc == 5);

    /* A call from a callback. */
    EXPECT(towline_call(client, &request, call_again, &outcome, NULL, NULL) == TOWLINE_STATUS_OK);
    wait_for(&outcome);
    EXPECT(outcome.status == TOWLINE_STATUS_OK);

    /* Taken back. EchoRequest { delay_ms: 60000 } */
    const uint8_t slow[] = {0x18, 0xe0, 0xd4, 3};
    echo.message = (TowlineBytes){slow, sizeof slow};
    TowlineCall *call = NULL;
    EXPECT(towline_call(client, &echo, on_response, &outcome, &call, NULL) == TOWLINE_STATUS_OK);
    towline_call_cancel(call);
    towline_call_cancel(call);
    towline_call_free(call);
    wait_for(&outcome);
    EXPECT(outcome.kind == TOWLINE_KIND_CANCELLED);

    /* Over. EchoRequest { delay_ms: 60000 }, deadline 50 ms */
    echo.deadline_ms = 50;
    EXPECT(towline_call(client, &echo, on_response, &outcome, NULL, NULL) == TOWLINE_STATUS_OK);
    wait_for(&outcome);
    EXPECT(outcome.kind == TOWLINE_KIND_DEADLINE_EXCEEDED && outcome.elapsed_us >= 50000);

    /* After the end. */
    echo.deadline_ms = 0;
    struct outcome left = {0};
    EXPECT(towline_call(client, &echo, on_response, &left, NULL, NULL) == TOWLINE_STATUS_OK);
    EXPECT(towline_client_shutdown(client, on_done, &outcome, NULL) == TOWLINE_STATUS_OK);
    REFUSED(towline_call(client, &request, on_response, &outcome, NULL, &error), TOWLINE_STATUS_CLOSED, "");
    REFUSED(towline_foreground(client, &error), TOWLINE_STATUS_CLOSED, "");
    wait_for(&outcome);
    wait_for(&left);
    EXPECT(left.status != TOWLINE_STATUS_OK);
    towline_client_free(client);

    /* NULL is nothing. */
    towline_client_free(NULL);
    towline_call_cancel(NULL);
    towline_error_free(NULL);
    EXPECT(towline_response_status(NULL) == 0 && strcmp(towline_error_text(NULL), "") == 0);
    printf("everything was as it should be\n");
    return 0;
}
