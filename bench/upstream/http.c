/* An MCP server over Streamable HTTP that answers at once, of both eras: `http HOST PORT` or
 * `http PATH`. It prints the port (0 lets the system choose) when it listens.
 *
 * One thread, keep-alive, plain JSON, no sessions. Bodies have a Content-Length; answers are so
 * small that a socket which does not take one at once counts as broken.
 */

#include "answer.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { REQUEST_BYTES = 1 << 16, EVENTS = 256, BACKLOG = 1024 };

struct connection {
    int descriptor;
    size_t held;
    char inbox[REQUEST_BYTES];
};

static _Noreturn void die(const char *what) {
    perror(what);
    exit(1);
}

static int listen_at(int count, char **words) {
    int descriptor;
    if (count == 2) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        if (strlen(words[1]) >= sizeof address.sun_path)
            die("path");
        strcpy(address.sun_path, words[1]);
        descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (bind(descriptor, (struct sockaddr *)&address, sizeof address) < 0)
            die("bind");
        puts("0");
    } else {
        struct sockaddr_in address = {.sin_family = AF_INET,
                                      .sin_port = htons((unsigned short)atoi(words[2]))};
        socklen_t size = sizeof address;
        int yes = 1;
        descriptor = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        if (inet_pton(AF_INET, words[1], &address.sin_addr) != 1 ||
            bind(descriptor, (struct sockaddr *)&address, sizeof address) < 0 ||
            getsockname(descriptor, (struct sockaddr *)&address, &size) < 0)
            die("bind");
        printf("%d\n", ntohs(address.sin_port));
    }
    if (listen(descriptor, BACKLOG) < 0)
        die("listen");
    fflush(stdout);
    return descriptor;
}

/* Write the whole reply to one request: its size. */
static size_t reply(const char *head, const char *body, size_t size, char *out) {
    char text[ANSWER_BYTES];
    if (strncmp(head, "POST ", 5) != 0)
        return (size_t)sprintf(
            out, "HTTP/1.1 405 Method Not Allowed\r\nAllow: POST\r\nContent-Length: 0\r\n\r\n");
    size_t length = answer(body, size, text);
    if (length == 0)
        return (size_t)sprintf(out, "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n");
    int written = sprintf(out,
                          "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                          "Content-Length: %zu\r\n\r\n",
                          length);
    memcpy(out + written, text, length);
    return (size_t)written + length;
}

/* Answer every whole request that is there; false if the connection is of no more use. */
static bool serve(struct connection *one) {
    char out[ANSWER_BYTES + 256];
    char *begin = one->inbox, *end;
    while ((end = memmem(begin, one->held, "\r\n\r\n", 4)) != NULL) {
        size_t head = (size_t)(end + 4 - begin), body = 0;
        end[2] = '\0';
        for (char *line = strstr(begin, "\r\n"); line != NULL; line = strstr(line + 2, "\r\n")) {
            if (strncasecmp(line + 2, "content-length:", 15) == 0)
                body = strtoul(line + 17, NULL, 10);
            else if (strncasecmp(line + 2, "transfer-encoding:", 18) == 0)
                return false;
        }
        end[2] = '\r';
        if (head + body > REQUEST_BYTES)
            return false;
        if (head + body > one->held)
            break;
        size_t size = reply(begin, begin + head, body, out);
        if (send(one->descriptor, out, size, MSG_NOSIGNAL) != (ssize_t)size)
            return false;
        begin += head + body;
        one->held -= head + body;
    }
    memmove(one->inbox, begin, one->held);
    return one->held < REQUEST_BYTES;
}

static bool receive(struct connection *one) {
    ssize_t got = recv(one->descriptor, one->inbox + one->held, REQUEST_BYTES - one->held, 0);
    if (got <= 0)
        return false;
    one->held += (size_t)got;
    return serve(one);
}

int main(int count, char **words) {
    if (count != 2 && count != 3) {
        fprintf(stderr, "usage: http HOST PORT | http PATH\n");
        return 2;
    }
    int listener = listen_at(count, words), poll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN}, ready[EVENTS];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int number = epoll_wait(poll, ready, EVENTS, -1);
        for (int i = 0; i < number; i++) {
            struct connection *one = ready[i].data.ptr;
            if (one != NULL) {
                if (!receive(one)) {
                    close(one->descriptor);
                    free(one);
                }
                continue;
            }
            int descriptor = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (descriptor < 0)
                continue;
            int yes = 1;
            setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
            one = malloc(sizeof *one);
            if (one == NULL)
                die("malloc");
            one->descriptor = descriptor;
            one->held = 0;
            event.data.ptr = one;
            epoll_ctl(poll, EPOLL_CTL_ADD, descriptor, &event);
        }
    }
}
