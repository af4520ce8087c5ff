/* What both upstreams say: constants, with the id of the question put in.
 *
 * Only the top level of a message is looked at, and only for `id` and `method`. A message is
 * modern if the envelope's key stands anywhere in it.
 */

#ifndef ANSWER_H
#define ANSWER_H

#define _GNU_SOURCE
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { ANSWER_BYTES = 2048, ID_BYTES = 256 };

struct slice {
    const char *begin;
    size_t size;
};

/* Find the end of the JSON value that begins here, or `end` if there is none. */
static const char *skip_value(const char *at, const char *end) {
    int depth = 0;
    bool quoted = false;
    for (; at < end; at++) {
        if (quoted) {
            if (*at == '\\')
                at++;
            else if (*at == '"') {
                quoted = false;
                if (depth == 0)
                    return at + 1;
            }
        } else if (*at == '"')
            quoted = true;
        else if (*at == '{' || *at == '[')
            depth++;
        else if (*at == '}' || *at == ']') {
            if (depth == 0)
                return at;
            if (--depth == 0)
                return at + 1;
        } else if (depth == 0 && (*at == ',' || *at == ' ' || *at == '\n' || *at == '\r'))
            return at;
    }
    return end;
}

/* Find the value of a key of the outermost object, as it is written; empty if there is none. */
static struct slice find_key(const char *text, size_t size, const char *key) {
    const char *end = text + size;
    const char *at = memchr(text, '{', size);
    size_t length = strlen(key);
    at = at == NULL ? end : at + 1;
    while (at < end) {
        while (at < end && *at != '"')
            at++;
        const char *name = at + 1;
        at = skip_value(at, end);
        bool found = at > name && (size_t)(at - 1 - name) == length &&
                     memcmp(name, key, length) == 0;
        while (at < end && (*at == ':' || *at == ' '))
            at++;
        const char *value = at;
        at = skip_value(at, end);
        if (found)
            return (struct slice){value, (size_t)(at - value)};
    }
    return (struct slice){"", 0};
}

static bool is_text(struct slice value, const char *text) {
    size_t length = strlen(text);
    return value.size == length + 2 && memcmp(value.begin + 1, text, length) == 0;
}

#define INFO "{\"name\":\"upstream\",\"version\":\"1\"}"
#define STAMP "\"_meta\":{\"io.modelcontextprotocol/serverInfo\":" INFO "}"
#define CACHE "\"ttlMs\":0,\"cacheScope\":\"private\""
#define COMPLETE "\"resultType\":\"complete\","
#define CONTENT "\"content\":[{\"type\":\"text\",\"text\":\"hi\"}]"
#define TOOLS                                                                                      \
    "\"tools\":[{\"name\":\"echo\",\"description\":\"Says hi\",\"inputSchema\":{\"type\":"         \
    "\"object\",\"properties\":{\"text\":{\"type\":\"string\"}}}}]"

static const char *result_of(struct slice method, bool modern) {
    if (is_text(method, "tools/call"))
        return modern ? "{" COMPLETE CONTENT "," STAMP "}" : "{" CONTENT "}";
    if (is_text(method, "tools/list"))
        return modern ? "{" COMPLETE TOOLS "," CACHE "," STAMP "}" : "{" TOOLS "}";
    if (is_text(method, "server/discover") && modern)
        return "{" COMPLETE "\"supportedVersions\":[\"2026-07-28\"],\"capabilities\":{\"tools\":"
               "{}}," CACHE "," STAMP "}";
    if (is_text(method, "initialize") && !modern)
        return "{\"protocolVersion\":\"2025-11-25\",\"capabilities\":{\"tools\":{}},\"serverInfo"
               "\":" INFO "}";
    if (is_text(method, "ping") && !modern)
        return "{}";
    return NULL;
}

/* Write the answer to a message: its size, or 0 if it is owed none. */
static size_t answer(const char *text, size_t size, char *out) {
    struct slice id = find_key(text, size, "id"), method = find_key(text, size, "method");
    if (id.size == 0 || id.size > ID_BYTES || method.size == 0)
        return 0;
    bool modern = memmem(text, size, "io.modelcontextprotocol/protocolVersion", 39) != NULL;
    const char *result = result_of(method, modern);
    int written;
    if (result != NULL)
        written = snprintf(out, ANSWER_BYTES, "{\"jsonrpc\":\"2.0\",\"id\":%.*s,\"result\":%s}",
                           (int)id.size, id.begin, result);
    else
        written = snprintf(out, ANSWER_BYTES,
                           "{\"jsonrpc\":\"2.0\",\"id\":%.*s,\"error\":{\"code\":-32601,"
                           "\"message\":\"Method not found\"}}",
                           (int)id.size, id.begin);
    return (size_t)written;
}

#endif
