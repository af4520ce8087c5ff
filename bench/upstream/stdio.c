/* An MCP server over standard input that answers at once, of both eras. */

#include "answer.h"

#include <unistd.h>

enum { LINE_BYTES = 1 << 20 };

static char inbox[LINE_BYTES], outbox[LINE_BYTES];

static bool write_all(const char *data, size_t size) {
    while (size > 0) {
        ssize_t written = write(1, data, size);
        if (written < 0)
            return false;
        data += written;
        size -= (size_t)written;
    }
    return true;
}

int main(void) {
    size_t held = 0;
    for (;;) {
        ssize_t got = held < LINE_BYTES ? read(0, inbox + held, LINE_BYTES - held) : -1;
        if (got <= 0)
            return got < 0;
        held += (size_t)got;
        char *line = inbox, *end;
        size_t written = 0;
        while ((end = memchr(line, '\n', held)) != NULL) {
            size_t size = answer(line, (size_t)(end - line), outbox + written);
            if (size > 0) {
                written += size;
                outbox[written++] = '\n';
            }
            if (written > LINE_BYTES - ANSWER_BYTES - 1) {
                if (!write_all(outbox, written))
                    return 1;
                written = 0;
            }
            held -= (size_t)(end + 1 - line);
            line = end + 1;
        }
        if (!write_all(outbox, written))
            return 1;
        memmove(inbox, line, held);
    }
}
