/* The Towline client for C.
 *
 * Handles are opaque and may be used by any thread. A function that can fail returns a TowlineStatus and, unless `error`
 * is NULL, sets *error: to NULL after success. Texts are NUL-terminated UTF-8; what is passed is copied before a
 * function returns. Calls to a handle that was freed are undefined, as is a function pointer that throws.
 *
 * Callbacks are made one after the other by a thread of the library's, which holds no lock meanwhile: they may call any
 * function, and one that blocks holds up other callbacks but not the line. TowlineBindSocket alone is called by others.
 * What a callback gets lives until it returns. user_data comes back as it was given.
 *
 * This file is made by cbindgen: client-sdk/bindings/tests/languages/header.rs says how.
 */

#ifndef TOWLINE_H
#define TOWLINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The backend certainly did not run the request.
#define TOWLINE_EXECUTION_NOT_RUN 0

// Nobody knows whether the backend ran it.
#define TOWLINE_EXECUTION_MAY_HAVE_RUN 1

// The backend ran it.
#define TOWLINE_EXECUTION_RAN 2

// The app lost interest.
#define TOWLINE_KIND_CANCELLED 1

// The deadline passed.
#define TOWLINE_KIND_DEADLINE_EXCEEDED 2

// No route of the gateway matches the request.
#define TOWLINE_KIND_NO_ROUTE 3

// The backend refused the connection or could not be reached.
#define TOWLINE_KIND_BACKEND_UNAVAILABLE 4

// The backend's connection broke, or its answer was malformed, after the request was sent.
#define TOWLINE_KIND_BACKEND_FAILED 5

// A limit was met: the text names it.
#define TOWLINE_KIND_LIMIT_EXCEEDED 6

// The gateway is draining.
#define TOWLINE_KIND_DRAINING 7

// This client is not allowed to do this.
#define TOWLINE_KIND_PERMISSION_DENIED 8

// The request asks for an encrypted transport, and there is none.
#define TOWLINE_KIND_ENCRYPTION_REQUIRED 9

// The request broke a rule of the protocol: the text names it.
#define TOWLINE_KIND_MALFORMED 10

// The recorded outcome is gone.
#define TOWLINE_KIND_OUTCOME_EXPIRED 11

// The session was lost or taken over.
#define TOWLINE_KIND_SESSION_LOST 12

// A message names a dictionary that the receiver does not hold.
#define TOWLINE_KIND_UNKNOWN_DICTIONARY 13

// A fault of the gateway's own.
#define TOWLINE_KIND_INTERNAL 14

// Nobody said what network it is.
#define TOWLINE_NETWORK_UNKNOWN 0

// There is none.
#define TOWLINE_NETWORK_OFFLINE 1

// A cable.
#define TOWLINE_NETWORK_ETHERNET 2

// Wi-Fi.
#define TOWLINE_NETWORK_WIFI 3

// Cellular of a generation that nobody said.
#define TOWLINE_NETWORK_CELLULAR 4

// GPRS, EDGE.
#define TOWLINE_NETWORK_CELLULAR_2G 5

// UMTS, HSPA.
#define TOWLINE_NETWORK_CELLULAR_3G 6

// LTE.
#define TOWLINE_NETWORK_CELLULAR_4G 7

// NR.
#define TOWLINE_NETWORK_CELLULAR_5G 8

// The app does not know what the network costs.
#define TOWLINE_METERED_UNKNOWN 0

// What is sent costs nothing.
#define TOWLINE_METERED_NO 1

// What is sent costs money.
#define TOWLINE_METERED_YES 2

// The request's priority is the usual one.
#define TOWLINE_PRIORITY_NORMAL 0

// What a person is waiting on with money at stake.
#define TOWLINE_PRIORITY_CRITICAL 1

// Prefetches, telemetry.
#define TOWLINE_PRIORITY_BACKGROUND 2

// Running the request twice does no harm, whatever its method.
#define TOWLINE_REQUEST_IDEMPOTENT 1

// Running the request twice does harm, whatever its method.
#define TOWLINE_REQUEST_NOT_IDEMPOTENT 2

// Refuse to send it in the clear.
#define TOWLINE_REQUEST_NEEDS_ENCRYPTION 4

// The head of the answer: status is set.
#define TOWLINE_STREAM_HEAD 1

// A message: message is set.
#define TOWLINE_STREAM_MESSAGE 2

// The end, and the last event: error is set, or else grpc_code.
#define TOWLINE_STREAM_END 3

// QUIC.
#define TOWLINE_TRANSPORT_QUIC 0

// TCP, with TLS unless the options say plaintext.
#define TOWLINE_TRANSPORT_TCP 1

// An HTTPS POST.
#define TOWLINE_TRANSPORT_POST 2

// An attempt is under way.
#define TOWLINE_STATE_CONNECTING 0

// The gateway answered.
#define TOWLINE_STATE_ONLINE 1

// Between attempts.
#define TOWLINE_STATE_OFFLINE 2

// Shut down, or refused by the gateway for good.
#define TOWLINE_STATE_CLOSED 3

// Nothing is known of the network yet.
#define TOWLINE_QUALITY_UNKNOWN 0

// Most attempts fail, or a round trip takes seconds.
#define TOWLINE_QUALITY_POOR 1

// Like 2G.
#define TOWLINE_QUALITY_WEAK 2

// Like 3G.
#define TOWLINE_QUALITY_FAIR 3

// Like 4G or better.
#define TOWLINE_QUALITY_GOOD 4

// Something failed that should not.
#define TOWLINE_LOG_ERROR 1

// Something is odd.
#define TOWLINE_LOG_WARN 2

// Something happened.
#define TOWLINE_LOG_INFO 3

// What the client decides, and why.
#define TOWLINE_LOG_DEBUG 4

// Everything. The client itself says nothing finer than debug, and the library that the build scripts make leaves out
// what HTTP/2 and QUIC say inside.
#define TOWLINE_LOG_TRACE 5

// Whose fault a failure was.
typedef enum {
  // It was done, or is under way.
  TOWLINE_STATUS_OK = 0,
  // The app's: an option cannot work. Nothing was started.
  TOWLINE_STATUS_CONFIG = 1,
  // The app's: an argument cannot be used. Nothing was sent.
  TOWLINE_STATUS_ARGUMENT = 2,
  // The app's: the client was shut down, or the gateway refused it for good. Nothing was sent.
  TOWLINE_STATUS_CLOSED = 3,
  // The device's: files or threads could not be had.
  TOWLINE_STATUS_START = 4,
  // No answer: the network's fault, the gateway's or the backend's, see towline_error_kind.
  TOWLINE_STATUS_RPC = 5,
  // The backend's: it answered with a gRPC status, see towline_error_grpc_code.
  TOWLINE_STATUS_GRPC = 6,
  // A fault of this library's own.
  TOWLINE_STATUS_INTERNAL = 7,
} TowlineStatus;

// A call under way.
typedef struct TowlineCall TowlineCall;

// A session with a gateway that outlives connections. Any thread may use it.
typedef struct TowlineClient TowlineClient;

// Why something was not done. One that a function returned is freed with towline_error_free; one that a callback got
// belongs to the library.
typedef struct TowlineError TowlineError;

// Something that is listened for, until the handle is freed.
typedef struct TowlineListener TowlineListener;

// A name whose addresses the client wants to know. The app owns it, and frees it with towline_name_free once it has
// answered it, in the callback or later, by any thread.
typedef struct TowlineName TowlineName;

// What a client is made with.
typedef struct TowlineOptions TowlineOptions;

// The answer to a call, which a callback looks at while it runs.
typedef struct TowlineResponse TowlineResponse;

// Messages both ways, until the handle is freed.
typedef struct TowlineStream TowlineStream;

// Told once that something was done: error is NULL; or else why it was not.
typedef void (*TowlineOnDone)(void *user_data, const TowlineError *error);

// The operator's list of further gateways that a client holds.
typedef struct {
  // The serial that its operator gave it; 0: there is no list.
  uint64_t serial;
  // When it was signed, seconds since 1970.
  uint64_t issued_s;
  // When it is not used any more, seconds since 1970.
  uint64_t expires_s;
  // Whether it is used, by the device's clock.
  bool is_current;
  // How many gateways it names that the client may go to.
  uint32_t endpoints;
  // How many more it names, whose certificates would name what the app does not allow.
  uint32_t left_out;
} TowlineEndpointList;

// What became of TLS sessions that are kept for the next run of the app, since this client was made.
typedef struct {
  // Given to the disk, for the next run.
  uint64_t kept;
  // Of earlier runs, taken away from there to be used.
  uint64_t restored;
  // That could not be read or opened: the handshake was a whole one, or used another.
  uint64_t damaged;
  // That went before they were used, since there were too many.
  uint64_t dropped;
} TowlineTicketCounts;

// Bytes that belong to somebody else: to the app when it passes them, for the time of the call; to the library when a
// callback gets them, for the time of the callback.
typedef struct {
  // The first one; may be NULL when there are none.
  const uint8_t *data;
  // How many.
  size_t len;
} TowlineBytes;

// A network, as the app has told of it.
typedef struct {
  // One of TOWLINE_NETWORK_*; TOWLINE_NETWORK_UNKNOWN where the app has told of none.
  uint32_t kind;
  // One of TOWLINE_METERED_*.
  uint32_t metered;
  // The label, may be empty.
  const char *key;
  // MCC and MNC, may be empty.
  const char *carrier;
} TowlineNetwork;

// Binds a socket to the network that it is for, before it connects: by setsockopt, with SO_BINDTODEVICE or IP_BOUND_IF. fd
// stays the client's: it is not to be closed, and not to be kept. peer is the address that it is for, as 192.0.2.7 or
// 2001:db8::7. Answers 0, or the errno that says why not: then the socket is closed and its attempt fails, the state of the
// line says why, and another attempt is made as ever.
//
// Unlike callbacks it is called by several threads of the library's, at one time too; each may block for up to five
// seconds.
typedef int32_t (*TowlineBindSocket)(void *user_data,
                                     int32_t fd,
                                     const char *peer,
                                     const TowlineNetwork *network);

// Told once that user_data is not used any more.
typedef void (*TowlineOnReleased)(void *user_data);

// A header field.
typedef struct {
  // Name, NUL-terminated.
  const char *name;
  // Value, NUL-terminated UTF-8.
  const char *value;
} TowlineHeader;

// One request. Zero is a good value for every member but struct_size and path.
typedef struct {
  // sizeof(TowlineRequest).
  size_t struct_size;
  // Path with query; for gRPC /package.Service/Method.
  const char *path;
  // For gRPC the encoded message without prefix, for HTTP the body. A stream sends it first unless it is empty.
  TowlineBytes message;
  // HTTP method, as "GET"; NULL: a gRPC method.
  const char *method;
  // Host that the router sees, where it matters; or NULL.
  const char *authority;
  // Header fields beside the session's.
  const TowlineHeader *headers;
  // How many.
  size_t headers_len;
  // How long the caller waits, milliseconds; 0: the client's option deadline_ms.
  uint64_t deadline_ms;
  // One of TOWLINE_PRIORITY_*.
  uint32_t priority;
  // Any of TOWLINE_REQUEST_*, added up.
  uint32_t flags;
} TowlineRequest;

// Told once how a call ended: by the response, or else by the error. Both belong to the library, which frees them when
// the callback returns.
typedef void (*TowlineOnResponse)(void *user_data, const TowlineResponse *response, const TowlineError *error);

// How a call went. Durations are microseconds; -1 is what did not happen.
typedef struct {
  // The transport that brought the end of the answer, one of TOWLINE_TRANSPORT_*; of a call that failed, the last
  // that carried it.
  uint32_t transport;
  // Connections that carried the request or waited for its answer; 1 where nothing broke, 0 where it was given to
  // none, and then transport says nothing.
  uint32_t attempts;
  // From the call until it was given to its first connection, or to its end if it never was.
  int64_t queue_us;
  // Looking up the address, where the call waited for that connection to be made.
  int64_t dns_us;
  // From the address to a connection of TCP; QUIC's handshake.
  int64_t connect_us;
  // From there to a completed TLS handshake.
  int64_t tls_us;
  // From being given to its first connection until the last byte of the request was handed to the system.
  int64_t send_us;
  // From being given to its first connection to the first byte of the answer.
  int64_t first_byte_us;
  // From the call to its end.
  int64_t elapsed_us;
  // Bytes of the request's messages, as the app gave them.
  uint64_t request_plain;
  // As they travelled.
  uint64_t request_wire;
  // Bytes of the answer's messages, as the app gets them.
  uint64_t response_plain;
  // As they travelled.
  uint64_t response_wire;
} TowlineTimeline;

// Something that a stream brought.
typedef struct {
  // One of TOWLINE_STREAM_*.
  uint32_t event;
  // HTTP status.
  uint16_t status;
  // The message, for the time of the callback.
  TowlineBytes message;
  // The gRPC status; -1 if it is no gRPC answer.
  int32_t grpc_code;
  // Why the stream broke off, for the time of the callback; or NULL.
  const TowlineError *error;
} TowlineStreamEvent;

// Told what a stream brings. While it runs, the sender is held back. The last call has TOWLINE_STREAM_END.
typedef void (*TowlineOnEvent)(void *user_data, const TowlineStreamEvent *event);

// The state of the line. Calls are taken in every state but TOWLINE_STATE_CLOSED.
typedef struct {
  // One of TOWLINE_STATE_*.
  uint32_t state;
  // Online: one of TOWLINE_TRANSPORT_*.
  uint32_t transport;
  // Online: whether the session was still there, so that its requests and pushes go on.
  bool resumed;
  // Online: whether the gateway took the first flight as early data (0-RTT).
  bool early_data;
  // Offline or closed: why. Else empty.
  const char *reason;
} TowlineState;

// Told each state of the line. The last call has NULL: then user_data is not used any more.
typedef void (*TowlineOnState)(void *user_data, const TowlineState *state);

// A message that nobody asked for.
typedef struct {
  // Counts up within the session.
  uint64_t id;
  // Topic name.
  const char *topic;
  // Media type, may be empty.
  const char *content_type;
  // Payload.
  TowlineBytes payload;
  // Urgency, 0 (first) to 7 (last).
  uint8_t priority;
} TowlinePush;

// Told each push, which is acknowledged to the gateway when the callback returns. The last call has NULL.
typedef void (*TowlineOnPush)(void *user_data, const TowlinePush *push);

// Told one of TOWLINE_QUALITY_* whenever the network is judged anew. The last call has NULL.
typedef void (*TowlineOnQuality)(void *user_data, const uint32_t *quality);

// One line of the log. It holds no secret.
typedef struct {
  // One of TOWLINE_LOG_*.
  uint32_t level;
  // Which part of the client speaks.
  const char *target;
  // What it says.
  const char *text;
  // Records before this one that were dropped, because the callback was slow.
  uint64_t dropped;
} TowlineLogRecord;

// Told each record of the log. The last call has NULL.
typedef void (*TowlineOnLog)(void *user_data, const TowlineLogRecord *record);

// A record of a durable call that cannot be read: the call may have run, and its outcome is lost. An app that knows the
// call's key may acknowledge that; otherwise towline_discard_damaged takes it away.
typedef struct {
  // The file.
  const char *name;
  // What is wrong with it.
  const char *reason;
} TowlineDamaged;

// Told each record that cannot be read. The last call has NULL.
typedef void (*TowlineOnDamaged)(void *user_data, const TowlineDamaged *record);

// How a call ended that towline_submit took in.
typedef struct {
  // Names the call.
  const char *key;
  // What the app put beside it.
  TowlineBytes tag;
  // The answer; or NULL.
  const TowlineResponse *response;
  // Why there is none; or NULL.
  const TowlineError *error;
} TowlineOutcome;

// Told each outcome, which is handed out again, in the next run of the app too, until towline_acknowledge. The last call
// has NULL.
typedef void (*TowlineOnOutcome)(void *user_data, const TowlineOutcome *outcome);

// Told each name to look up, which is the app's from then on. The last call has NULL.
typedef void (*TowlineOnName)(void *user_data, TowlineName *name);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Whose fault it was; of NULL, TOWLINE_STATUS_OK.
TowlineStatus towline_error_status(const TowlineError *error);

// What was wrong, where, and what to do. It lives as long as the error.
const char *towline_error_text(const TowlineError *error);

// The name of the option or argument that cannot be used, else empty. It lives as long as the error.
const char *towline_error_subject(const TowlineError *error);

// Why a request was not answered, one of TOWLINE_KIND_*; 0 if that is not what went wrong.
uint32_t towline_error_kind(const TowlineError *error);

// Whether the backend ran the request, one of TOWLINE_EXECUTION_*.
uint32_t towline_error_execution(const TowlineError *error);

// Whether the same request may succeed later, and is safe to send again without knowing more.
bool towline_error_is_retryable(const TowlineError *error);

// The pause that the gateway asks for before the next attempt, milliseconds; 0 is none.
uint64_t towline_error_retry_after_ms(const TowlineError *error);

// The backend's gRPC status, where the error's status is TOWLINE_STATUS_GRPC; else 0.
uint32_t towline_error_grpc_code(const TowlineError *error);

// Frees an error that a function returned; NULL is nothing.
void towline_error_free(TowlineError *error);

// Options without a gateway, and defaults for all else. Free them with towline_options_free.
TowlineOptions *towline_options_new(void);

// Sets an option. Those marked with + may be set several times, each adds a value.
//
// - endpoint +: a gateway, host:port; at least one
// - bundled_addresses +: addresses of an endpoint's name, as edge.example=192.0.2.7,2001:db8::7, to use before DNS has spoken
// - own_resolver: whether the app looks names up itself, see towline_on_name (false)
// - strategy +: a parameter of a strategy, as hedge.enabled=false, which holds until the gateway's policy sets the same one
// - endpoint_list_key +: ed25519/ and base64 of a public key; lists of further gateways that it signed are taken
// - endpoint_list_name +: what certificates of listed gateways may name beside the endpoints' hosts, as *.edge.example
// - roots_pem: the certificate authorities to trust, PEM; must be set unless plaintext is
// - plaintext: true is no encryption, for loopback and laboratories (false)
// - pin +: sha256/ and base64 of the SHA-256 of a public key that the gateway's chain must have
// - certificate_pem, certificate_key_pem: what the client shows a gateway that asks who it is, PEM
// - transports: quic+tcp, quic, tcp (quic+tcp)
// - early_data: whether requests may leave in a resumed connection's first flight (true)
// - keep_tickets: whether TLS sessions are kept beside identity_file, for the next run of the app (true)
// - client_id: name of this installation (the identity file's, or random)
// - identity_file: a file that makes this the same client again after a restart
// - user, password: where the gateway asks for them
// - session_header +: "name: value", which every request carries
// - never_indexed +: name of a header field whose values are secrets, beside authorization and cookie
// - topic +: topic filter to subscribe to on every connection
// - agent: name and version of the app
// - app_name, app_version, app_region: what the app is and where, for the operator's policy
// - short_calls: whether calls may go out by HTTPS POST: off, fallback, always (fallback)
// - short_after_ms: with fallback, after how long without a line (3000)
// - dictionary_fetch: unless-metered, when-unmetered, never (unless-metered)
// - deadline_ms: how long a call waits that names no deadline (60000)
// - calls_max: calls waiting or running at one time
// - queued_bytes_max: bytes of messages in calls that are not answered
// - message_bytes_max: bytes of one message of an answer
// - pushes_max: pushes that wait for the app
TowlineStatus towline_options_set(TowlineOptions *options,
                                  const char *name,
                                  const char *value,
                                  TowlineError **error);

// Frees options; NULL is nothing. A client that was made with them keeps a copy.
void towline_options_free(TowlineOptions *options);

// Version of the library.
const char *towline_version(void);

// Checks the options and begins to connect in the background. Calls may be made at once: they wait for the line.
// Free the client with towline_client_free.
TowlineStatus towline_client_new(const TowlineOptions *options,
                                 TowlineClient **client,
                                 TowlineError **error);

// The name of this client, to which backends push. It lives as long as the handle.
const char *towline_client_id(const TowlineClient *client);

// Ends the session's connection and fails what waits. on_done, which may be NULL, is told when the connection is
// closed; what is asked of the client after this call fails with TOWLINE_STATUS_CLOSED.
TowlineStatus towline_client_shutdown(const TowlineClient *client,
                                      TowlineOnDone on_done,
                                      void *user_data,
                                      TowlineError **error);

// Frees the handle; NULL is nothing. The client is closed, once the calls that are under way have been answered, unless
// towline_client_shutdown did that before.
void towline_client_free(TowlineClient *client);

// Says what list of further gateways is held: see the option endpoint_list_key.
TowlineStatus towline_endpoint_list(const TowlineClient *client,
                                    TowlineEndpointList *list,
                                    TowlineError **error);

// Says how many TLS sessions were kept and restored, beside the option identity_file. Whether early data was taken is
// in the state of the line.
TowlineStatus towline_ticket_counts(const TowlineClient *client,
                                    TowlineTicketCounts *counts,
                                    TowlineError **error);

// The revision of the operator's policy that the client follows; 0 where it has been sent none.
uint64_t towline_policy_revision(const TowlineClient *client);

// Subscribes to a topic filter, now and on every later connection. on_done may be NULL.
TowlineStatus towline_subscribe(const TowlineClient *client,
                                const char *filter,
                                TowlineOnDone on_done,
                                void *user_data,
                                TowlineError **error);

// Takes a subscription back. on_done may be NULL.
TowlineStatus towline_unsubscribe(const TowlineClient *client,
                                  const char *filter,
                                  TowlineOnDone on_done,
                                  void *user_data,
                                  TowlineError **error);

// Publishes a message; on_done is told when the gateway has accepted it, and it may arrive twice. Without on_done it is
// sent once and may get lost.
TowlineStatus towline_publish(const TowlineClient *client,
                              const char *topic,
                              TowlineBytes payload,
                              TowlineOnDone on_done,
                              void *user_data,
                              TowlineError **error);

// The device's network changed: the line moves to the new one at once. kind is one of TOWLINE_NETWORK_*, metered one of
// TOWLINE_METERED_*. key is a label that is the same whenever the device is on this network, carrier the numbers MCC and
// MNC of a cellular one; both may be NULL.
TowlineStatus towline_network_changed(const TowlineClient *client,
                                      uint32_t kind,
                                      uint32_t metered,
                                      const char *key,
                                      const char *carrier,
                                      TowlineError **error);

// Another network has joined the one in use, which still works: Wi-Fi came, and cellular is there yet. The line moves there,
// with the requests that it has, once some connections over it have come through in a row; if they do not, it stays where
// it is. The arguments are those of towline_network_changed.
TowlineStatus towline_network_joined(const TowlineClient *client,
                                     uint32_t kind,
                                     uint32_t metered,
                                     const char *key,
                                     const char *carrier,
                                     TowlineError **error);

// What is sent on the network in use costs money, or not: metered is one of TOWLINE_METERED_*. For a device that tells that
// apart from changes of the network.
TowlineStatus towline_set_metered(const TowlineClient *client,
                                  uint32_t metered,
                                  TowlineError **error);

// The line is made anew at once, whatever the network did.
TowlineStatus towline_reconnect(const TowlineClient *client, TowlineError **error);

// Somebody looks at the app again.
TowlineStatus towline_foreground(const TowlineClient *client, TowlineError **error);

// Nobody looks at the app.
TowlineStatus towline_background(const TowlineClient *client, TowlineError **error);

// The user asked the device to save power, or took that back.
TowlineStatus towline_low_power(const TowlineClient *client, bool low_power, TowlineError **error);

// The device dozes, or not any more.
TowlineStatus towline_doze(const TowlineClient *client, bool dozing, TowlineError **error);

// Has each socket of clients that are made with these options bound to the network that it is for. Without it sockets
// follow the system's routes, and a network that was told by towline_network_joined is not used until they lead there.
// on_released, which may be NULL, is told when the options and those clients are gone, or something else was set here.
TowlineStatus towline_options_set_binder(TowlineOptions *options,
                                         TowlineBindSocket bind,
                                         void *user_data,
                                         TowlineOnReleased on_released,
                                         TowlineError **error);

// Sends one request; on_response is called once with its whole answer, unless this function fails. A gRPC status other
// than OK is no error here: see towline_response_grpc_status.
//
// call may be NULL; else the handle is freed with towline_call_free, at any time.
TowlineStatus towline_call(const TowlineClient *client,
                           const TowlineRequest *request,
                           TowlineOnResponse on_response,
                           void *user_data,
                           TowlineCall **call,
                           TowlineError **error);

// Gives a call up: unless it was answered already, its callback is told TOWLINE_KIND_CANCELLED. The backend is told too.
void towline_call_cancel(const TowlineCall *call);

// Frees a handle, which does not cancel the call; NULL is nothing.
void towline_call_free(TowlineCall *call);

// HTTP status.
uint16_t towline_response_status(const TowlineResponse *response);

// How many messages there are: one for a unary gRPC method; for HTTP the body comes in parts.
size_t towline_response_messages_len(const TowlineResponse *response);

// A message, counted from 0; no bytes if there is none of that number.
TowlineBytes towline_response_message(const TowlineResponse *response, size_t number);

// The first header field of that name (lower case), or NULL.
const char *towline_response_header(const TowlineResponse *response, const char *name);

// The first trailer of that name (lower case), or NULL.
const char *towline_response_trailer(const TowlineResponse *response, const char *name);

// The gRPC status: 0 is OK, -1 means that this is no gRPC answer. text, which may be NULL, gets the status' text.
int32_t towline_response_grpc_status(const TowlineResponse *response,
                                     const char **text);

// How the call went. timeline gets nothing, and false is answered, where there is no response.
bool towline_response_timeline(const TowlineResponse *response, TowlineTimeline *timeline);

// How a call went that failed. timeline gets nothing, and false is answered, where the error is not that of a call.
bool towline_error_timeline(const TowlineError *error,
                            TowlineTimeline *timeline);

// Opens a stream: messages both ways. Freed, the handle cancels it.
TowlineStatus towline_stream_open(const TowlineClient *client,
                                  const TowlineRequest *request,
                                  TowlineOnEvent on_event,
                                  void *user_data,
                                  TowlineStream **stream,
                                  TowlineError **error);

// Sends a message behind those that were sent before. on_done, which may be NULL, is told when there is room for the
// next one, or why it was not sent.
TowlineStatus towline_stream_send(const TowlineStream *stream,
                                  TowlineBytes message,
                                  TowlineOnDone on_done,
                                  void *user_data,
                                  TowlineError **error);

// Ends this direction behind the messages that were sent. on_done may be NULL.
TowlineStatus towline_stream_finish(const TowlineStream *stream,
                                    TowlineOnDone on_done,
                                    void *user_data,
                                    TowlineError **error);

// Gives a stream up: unless it has ended, its callback is told TOWLINE_KIND_CANCELLED. The backend is told too.
TowlineStatus towline_stream_cancel(const TowlineStream *stream,
                                    TowlineError **error);

// Frees the handle, which cancels the stream unless it has ended; NULL is nothing.
void towline_stream_free(TowlineStream *stream);

// Listens to the state of the line, the present one first.
TowlineStatus towline_on_state(const TowlineClient *client,
                               TowlineOnState on_state,
                               void *user_data,
                               TowlineListener **listener,
                               TowlineError **error);

// Listens for pushes. Several listeners share the pushes out among them.
TowlineStatus towline_on_push(const TowlineClient *client,
                              TowlineOnPush on_push,
                              void *user_data,
                              TowlineListener **listener,
                              TowlineError **error);

// Listens to how good the network is, what is known at present first.
TowlineStatus towline_on_quality(const TowlineClient *client,
                                 TowlineOnQuality on_quality,
                                 void *user_data,
                                 TowlineListener **listener,
                                 TowlineError **error);

// Listens to the log of all clients of this process, from level (one of TOWLINE_LOG_*) upwards. The finest level that
// was ever asked for holds for all listeners.
TowlineStatus towline_on_log(uint32_t level,
                             TowlineOnLog on_log,
                             void *user_data,
                             TowlineListener **listener,
                             TowlineError **error);

// Ends a listener, whose callback is told NULL; NULL is nothing.
void towline_listener_free(TowlineListener *listener);

// Tells on_damaged of the records that could not be read when the client was made. They stay until
// towline_discard_damaged.
TowlineStatus towline_damaged_records(const TowlineClient *client,
                                      TowlineOnDamaged on_damaged,
                                      void *user_data,
                                      TowlineError **error);

// Gives a record up that cannot be read: its file is removed. on_done, which may be NULL, is told when it is, or why it
// stays.
TowlineStatus towline_discard_damaged(const TowlineClient *client,
                                      const char *name,
                                      TowlineOnDone on_done,
                                      void *user_data,
                                      TowlineError **error);

// Takes a call in that outlives the app. It needs the option identity_file, beside which it is kept; it runs once, in this
// run of the app or a later one; and towline_on_outcome tells how it ended. on_done, which may be NULL, is told when the
// call is on disk, or why it was not taken in: it may run all the same where that error says that it may have run.
//
// key names the call, 1 to 256 bytes, and is free again once its outcome is acknowledged. tag is what the app wants to
// find beside the outcome, up to 4096 bytes.
TowlineStatus towline_submit(const TowlineClient *client,
                             const TowlineRequest *request,
                             const char *key,
                             TowlineBytes tag,
                             TowlineOnDone on_done,
                             void *user_data,
                             TowlineError **error);

// Listens for outcomes of calls that were submitted, in earlier runs of the app too. Each goes to one listener.
TowlineStatus towline_on_outcome(const TowlineClient *client,
                                 TowlineOnOutcome on_outcome,
                                 void *user_data,
                                 TowlineListener **listener,
                                 TowlineError **error);

// The app is done with the outcome of that key: it is not handed out again, and the key is free. on_done, which may be
// NULL, is told when that is on disk, or why the outcome stays.
TowlineStatus towline_acknowledge(const TowlineClient *client,
                                  const char *key,
                                  TowlineOnDone on_done,
                                  void *user_data,
                                  TowlineError **error);

// Listens for names to look up, where the option own_resolver is set: until somebody listens no name is looked up.
// Each name goes to one listener.
TowlineStatus towline_on_name(const TowlineClient *client,
                              TowlineOnName on_name,
                              void *user_data,
                              TowlineListener **listener,
                              TowlineError **error);

// The name. It lives as long as the handle.
const char *towline_name_host(const TowlineName *name);

// Says which network connections to it are for, as the app has told of it. Its texts live as long as the handle.
TowlineStatus towline_name_network(const TowlineName *name,
                                   TowlineNetwork *network,
                                   TowlineError **error);

// Its addresses, the preferred first: 1 to 16 of IPv4 and IPv6, as 192.0.2.7,2001:db8::7. A second answer is none.
TowlineStatus towline_name_answer(const TowlineName *name,
                                  const char *addresses,
                                  TowlineError **error);

// There is no answer; reason is what the state of the line says of it.
TowlineStatus towline_name_fail(const TowlineName *name, const char *reason, TowlineError **error);

// Frees the handle; NULL is nothing. The lookup fails if it was not answered.
void towline_name_free(TowlineName *name);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TOWLINE_H */
