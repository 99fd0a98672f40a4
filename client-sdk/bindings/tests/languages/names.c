/* Names that the app looks up, and TLS sessions that the next run restores: names localhost:PORT CA.pem IDENTITY. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <threads.h>

#include "expect.h"
#include "towline.h"

/* What callbacks were told. */
static struct {
    unsigned asked, ended, answered, done, failed_so;
    TowlineName *name;
} told = {0, 0, 0, 0, 0, NULL};

/* There is no answer until the state says so; then the next name is kept for another thread to answer. */
static void on_name(void *user_data, TowlineName *name) {
    EXPECT(user_data == &told);
    if (name == NULL) {
        count(&told.ended);
        return;
    }
    EXPECT(strcmp(towline_name_host(name), "localhost") == 0);
    TowlineNetwork network;
    EXPECT(towline_name_network(name, NULL, NULL) == TOWLINE_STATUS_ARGUMENT);
    EXPECT(towline_name_network(name, &network, NULL) == TOWLINE_STATUS_OK);
    EXPECT(network.kind == TOWLINE_NETWORK_UNKNOWN && network.key[0] == '\0');
    if (told.failed_so == 0) {
        EXPECT(towline_name_fail(name, "no resolver today", NULL) == TOWLINE_STATUS_OK);
        towline_name_free(name);
        return;
    }
    if (told.asked == 0) {
        told.name = name;
    } else {
        EXPECT(towline_name_answer(name, "127.0.0.1", NULL) == TOWLINE_STATUS_OK);
        towline_name_free(name);
    }
    count(&told.asked);
}

static void on_state(void *user_data, const TowlineState *state) {
    (void)user_data;
    if (state != NULL && state->state == TOWLINE_STATE_OFFLINE && strstr(state->reason, "no resolver today")) {
        count(&told.failed_so);
    }
}

static void on_response(void *user_data, const TowlineResponse *response, const TowlineError *error) {
    (void)user_data;
    EXPECT(error == NULL && towline_response_status(response) == 200);
    count(&told.answered);
}

static void on_done(void *user_data, const TowlineError *error) {
    (void)user_data;
    EXPECT(error == NULL);
    count(&told.done);
}

static char *read_file(const char *path) {
    FILE *file = fopen(path, "r");
    char *text = calloc(1, 1 << 16);
    EXPECT(file != NULL && text != NULL && fread(text, 1, (1 << 16) - 1, file) > 0);
    fclose(file);
    return text;
}

static TowlineClient *client_of(char **argv, const char *own_resolver) {
    TowlineOptions *options = towline_options_new();
    char *roots = read_file(argv[2]);
    EXPECT(towline_options_set(options, "endpoint", argv[1], NULL) == TOWLINE_STATUS_OK);
    EXPECT(towline_options_set(options, "roots_pem", roots, NULL) == TOWLINE_STATUS_OK);
    EXPECT(towline_options_set(options, "identity_file", argv[3], NULL) == TOWLINE_STATUS_OK);
    EXPECT(towline_options_set(options, "own_resolver", own_resolver, NULL) == TOWLINE_STATUS_OK);
    TowlineClient *client = NULL;
    EXPECT(towline_client_new(options, &client, NULL) == TOWLINE_STATUS_OK);
    towline_options_free(options);
    free(roots);
    return client;
}

static void call(TowlineClient *client) {
    TowlineRequest request = {.struct_size = sizeof request, .path = "/hello", .method = "GET"};
    EXPECT(towline_call(client, &request, on_response, NULL, NULL, NULL) == TOWLINE_STATUS_OK);
}

static void close_client(TowlineClient *client) {
    unsigned before = told.done;
    EXPECT(towline_client_shutdown(client, on_done, NULL, NULL) == TOWLINE_STATUS_OK);
    wait_for_count(&told.done, before + 1);
    towline_client_free(client);
}

int main(int argc, char **argv) {
    EXPECT(argc == 4);
    TowlineError *error = NULL;
    TowlineListener *names = NULL, *states = NULL;
    TowlineClient *first = client_of(argv, "true");
    EXPECT(towline_on_state(first, on_state, NULL, &states, NULL) == TOWLINE_STATUS_OK);
    EXPECT(towline_on_name(first, on_name, &told, &names, NULL) == TOWLINE_STATUS_OK);
    call(first);
    wait_for_count(&told.failed_so, 1);
    wait_for_count(&told.asked, 1);
    EXPECT(told.answered == 0);
    EXPECT(towline_name_answer(told.name, "localhost", &error) == TOWLINE_STATUS_ARGUMENT);
    EXPECT(strcmp(towline_error_subject(error), "addresses[0]") == 0);
    towline_error_free(error);
    EXPECT(towline_name_answer(told.name, "127.0.0.1", NULL) == TOWLINE_STATUS_OK);
    towline_name_free(told.name);
    wait_for_count(&told.answered, 1);

    TowlineTicketCounts counts = {0};
    EXPECT(towline_ticket_counts(first, NULL, NULL) == TOWLINE_STATUS_ARGUMENT);
    while (counts.kept == 0) {
        EXPECT(towline_ticket_counts(first, &counts, NULL) == TOWLINE_STATUS_OK);
        thrd_yield();
    }
    EXPECT(counts.restored == 0);
    close_client(first);
    wait_for_count(&told.ended, 1);
    towline_listener_free(names);
    towline_listener_free(states);

    TowlineClient *next = client_of(argv, "false");
    call(next);
    wait_for_count(&told.answered, 2);
    EXPECT(towline_ticket_counts(next, &counts, NULL) == TOWLINE_STATUS_OK);
    EXPECT(counts.restored > 0 && counts.damaged == 0);
    EXPECT(towline_on_name(next, on_name, &told, &names, &error) == TOWLINE_STATUS_CONFIG);
    EXPECT(strcmp(towline_error_subject(error), "own_resolver") == 0 && names == NULL);
    towline_error_free(error);
    close_client(next);
    printf("everything was as it should be\n");
    return 0;
}
