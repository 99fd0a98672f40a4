/* Sockets that the app binds to networks: sockets HOST:PORT CA.pem. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "expect.h"
#include "towline.h"

/* What the app was asked and told. */
static struct {
    unsigned home, street, refused, offline, answered, done, released;
} told = {0, 0, 0, 0, 0, 0, 0};

static int32_t bind_socket(void *user_data, int32_t fd, const char *peer, const TowlineNetwork *network) {
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    EXPECT(user_data == &told && strcmp(peer, "127.0.0.1") == 0);
    EXPECT(getpeername(fd, (struct sockaddr *)&address, &length) == -1 && errno == ENOTCONN);
    if (strcmp(network->key, "home") == 0) {
        EXPECT(network->kind == TOWLINE_NETWORK_WIFI && network->metered == TOWLINE_METERED_NO);
        EXPECT(network->carrier[0] == '\0');
        count(&told.home);
    }
    if (strcmp(network->key, "street") == 0) {
        EXPECT(network->kind == TOWLINE_NETWORK_CELLULAR && network->metered == TOWLINE_METERED_YES);
        EXPECT(strcmp(network->carrier, "46001") == 0);
        count(&told.street);
    }
    if (strcmp(network->key, "cellar") == 0) {
        count(&told.refused);
        return ENETDOWN;
    }
    return 0;
}

static void on_released(void *user_data) {
    EXPECT(user_data == &told);
    count(&told.released);
}

static void on_state(void *user_data, const TowlineState *state) {
    (void)user_data;
    if (state != NULL && state->state == TOWLINE_STATE_OFFLINE && strstr(state->reason, strerror(ENETDOWN))) {
        count(&told.offline);
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

static void call(TowlineClient *client) {
    unsigned before = told.answered;
    TowlineRequest request = {.struct_size = sizeof request, .path = "/hello", .method = "GET"};
    EXPECT(towline_call(client, &request, on_response, NULL, NULL, NULL) == TOWLINE_STATUS_OK);
    wait_for_count(&told.answered, before + 1);
}

int main(int argc, char **argv) {
    EXPECT(argc == 3);
    TowlineError *error = NULL;
    TowlineOptions *options = towline_options_new();
    char *roots = read_file(argv[2]);
    EXPECT(towline_options_set(options, "endpoint", argv[1], NULL) == TOWLINE_STATUS_OK);
    EXPECT(towline_options_set(options, "roots_pem", roots, NULL) == TOWLINE_STATUS_OK);
    EXPECT(towline_options_set_binder(options, NULL, NULL, NULL, &error) == TOWLINE_STATUS_ARGUMENT);
    EXPECT(strcmp(towline_error_subject(error), "bind") == 0);
    towline_error_free(error);
    /* The second takes the first one's place. */
    EXPECT(towline_options_set_binder(options, bind_socket, &told, on_released, NULL) == TOWLINE_STATUS_OK);
    EXPECT(towline_options_set_binder(options, bind_socket, &told, on_released, NULL) == TOWLINE_STATUS_OK);
    wait_for_count(&told.released, 1);
    TowlineClient *client = NULL;
    TowlineListener *states = NULL;
    EXPECT(towline_client_new(options, &client, NULL) == TOWLINE_STATUS_OK);
    towline_options_free(options);
    free(roots);
    EXPECT(towline_on_state(client, on_state, NULL, &states, NULL) == TOWLINE_STATUS_OK);

    const uint32_t wifi = TOWLINE_NETWORK_WIFI, cellular = TOWLINE_NETWORK_CELLULAR;
    const uint32_t free_of_charge = TOWLINE_METERED_NO, metered = TOWLINE_METERED_YES;
    EXPECT(towline_network_changed(client, wifi, free_of_charge, "home", NULL, NULL) == TOWLINE_STATUS_OK);
    wait_for_count(&told.home, 1);
    call(client);
    EXPECT(told.street == 0);
    EXPECT(towline_network_joined(client, cellular, metered, "street", "46001", NULL) == TOWLINE_STATUS_OK);
    wait_for_count(&told.street, 2);
    call(client);
    EXPECT(towline_network_changed(client, wifi, free_of_charge, "cellar", NULL, NULL) == TOWLINE_STATUS_OK);
    wait_for_count(&told.refused, 1);
    wait_for_count(&told.offline, 1);
    EXPECT(towline_network_changed(client, wifi, free_of_charge, "home", NULL, NULL) == TOWLINE_STATUS_OK);
    call(client);

    EXPECT(towline_client_shutdown(client, on_done, NULL, NULL) == TOWLINE_STATUS_OK);
    wait_for_count(&told.done, 1);
    towline_listener_free(states);
    towline_client_free(client);
    wait_for_count(&told.released, 2);
    printf("everything was as it should be\n");
    return 0;
}
