/* A call that one client takes in, and whose outcome the next one has, and a record that is damaged between two clients:
 * durable HOST:PORT IDENTITY. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "expect.h"
#include "towline.h"

/* What callbacks were told. */
static struct {
    unsigned done, failed, outcomes, ended, damaged, told_all;
    char name[256];
} told = {0, 0, 0, 0, 0, 0, ""};

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
    EXPECT(strcmp(outcome->key, told.outcomes == 0 ? "order-1" : "order-2") == 0);
    EXPECT(outcome->tag.len == 4 && memcmp(outcome->tag.data, "cart", 4) == 0);
    EXPECT(outcome->error == NULL && towline_response_status(outcome->response) == 200);
    EXPECT(towline_response_grpc_status(outcome->response, NULL) == 0);
    count(&told.outcomes);
}

static void on_damaged(void *user_data, const TowlineDamaged *record) {
    EXPECT(user_data == &told);
    if (record == NULL) {
        count(&told.told_all);
        return;
    }
    EXPECT(strlen(record->reason) > 0);
    snprintf(told.name, sizeof told.name, "%s", record->name);
    count(&told.damaged);
}

static void on_unknown(void *user_data, const TowlineError *error) {
    (void)user_data;
    EXPECT(error != NULL && strcmp(towline_error_subject(error), "name") == 0);
    count(&told.done);
}

/* Cuts the one record beside the identity file short. */
static void damage(const char *identity) {
    char folder[512], path[1024];
    snprintf(folder, sizeof folder, "%s.durable", identity);
    DIR *files = opendir(folder);
    EXPECT(files != NULL);
    for (struct dirent *file; (file = readdir(files)) != NULL;) {
        if (file->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", folder, file->d_name);
        EXPECT(truncate(path, 9) == 0);
    }
    closedir(files);
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
    wait_for_count(&told.done, before + 1);
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
    wait_for_count(&told.done, 1);
    close_client(first);

    TowlineClient *next = client_of(argv);
    TowlineListener *outcomes = NULL;
    check(towline_on_outcome(next, on_outcome, &told, &outcomes, &error), error);
    wait_for_count(&told.outcomes, 1);
    check(towline_acknowledge(next, "order-1", on_done, NULL, &error), error);
    wait_for_count(&told.done, 3);
    EXPECT(told.failed == 0);
    check(towline_acknowledge(next, "order-1", on_done, NULL, &error), error);
    wait_for_count(&told.failed, 1);
    wait_for_count(&told.done, 4);
    close_client(next);
    wait_for_count(&told.ended, 1);
    EXPECT(told.outcomes == 1);
    towline_listener_free(outcomes);

    TowlineClient *third = client_of(argv);
    TowlineEndpointList list = {.serial = 1};
    check(towline_endpoint_list(third, &list, &error), error);
    EXPECT(list.serial == 0 && list.endpoints == 0);
    EXPECT(towline_endpoint_list(third, NULL, &error) == TOWLINE_STATUS_ARGUMENT);
    towline_error_free(error);
    check(towline_set_metered(third, TOWLINE_METERED_YES, &error), error);
    EXPECT(towline_set_metered(third, 9, &error) == TOWLINE_STATUS_ARGUMENT);
    towline_error_free(error);
    check(towline_reconnect(third, &error), error);
    check(towline_on_outcome(third, on_outcome, &told, &outcomes, &error), error);
    check(towline_submit(third, &request, "order-2", tag, on_done, NULL, &error), error);
    wait_for_count(&told.done, 6);
    /* Its outcome is on disk then, and the record that is damaged is the last one of it. */
    wait_for_count(&told.outcomes, 2);
    close_client(third);
    wait_for_count(&told.ended, 2);
    towline_listener_free(outcomes);
    damage(argv[2]);

    TowlineClient *fourth = client_of(argv);
    EXPECT(towline_damaged_records(fourth, NULL, NULL, &error) == TOWLINE_STATUS_ARGUMENT);
    towline_error_free(error);
    check(towline_damaged_records(fourth, on_damaged, &told, &error), error);
    wait_for_count(&told.told_all, 1);
    EXPECT(told.damaged == 1);
    check(towline_discard_damaged(fourth, "another", on_unknown, NULL, &error), error);
    wait_for_count(&told.done, 8);
    check(towline_discard_damaged(fourth, told.name, on_done, NULL, &error), error);
    wait_for_count(&told.done, 9);
    check(towline_damaged_records(fourth, on_damaged, &told, &error), error);
    wait_for_count(&told.told_all, 2);
    EXPECT(told.damaged == 1 && told.failed == 1);
    close_client(fourth);
    puts("everything was as it should be");
    return 0;
}
