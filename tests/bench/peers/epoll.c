/* The limit for joined writes: C, epoll, one thread. What arrives in one turn of the loop is joined, and each
 * connection is written once. It parses frame lengths and unmasks the payload; it holds no state beside the sockets.
 * With a broker's port as the second argument it publishes what it has joined, and writes what other processes publish. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* SHA-1, only for the handshake's answer (FIPS 180-4) */
static void sha1(const uint8_t *m, size_t n, uint8_t out[20]) {
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0}; uint8_t b[256] = {0};
    memcpy(b, m, n); b[n] = 0x80; size_t blocks = (n + 8) / 64 + 1; uint64_t bits = n * 8;
    for (int i = 0; i < 8; i++) b[blocks * 64 - 1 - i] = bits >> (8 * i);
    for (size_t k = 0; k < blocks; k++) {
        uint32_t w[80], a = h[0], c = h[1], d = h[2], e = h[3], f = h[4];
        for (int i = 0; i < 16; i++) w[i] = b[k * 64 + i * 4] << 24 | b[k * 64 + i * 4 + 1] << 16 | b[k * 64 + i * 4 + 2] << 8 | b[k * 64 + i * 4 + 3];
        for (int i = 16; i < 80; i++) { uint32_t x = w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16]; w[i] = x << 1 | x >> 31; }
        for (int i = 0; i < 80; i++) {
            uint32_t g, q;
            if (i < 20) { g = (c & d) | (~c & e); q = 0x5A827999; } else if (i < 40) { g = c ^ d ^ e; q = 0x6ED9EBA1; }
            else if (i < 60) { g = (c & d) | (c & e) | (d & e); q = 0x8F1BBCDC; } else { g = c ^ d ^ e; q = 0xCA62C1D6; }
            uint32_t t = (a << 5 | a >> 27) + g + f + q + w[i]; f = e; e = d; d = c << 30 | c >> 2; c = a; a = t;
        }
        h[0] += a; h[1] += c; h[2] += d; h[3] += e; h[4] += f;
    }
    for (int i = 0; i < 20; i++) out[i] = h[i / 4] >> (24 - 8 * (i % 4));
}
static void base64(const uint8_t *p, int n, char *o) {
    static const char t[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < n; i += 3) {
        uint32_t v = p[i] << 16 | (i + 1 < n ? p[i + 1] << 8 : 0) | (i + 2 < n ? p[i + 2] : 0);
        *o++ = t[v >> 18]; *o++ = t[v >> 12 & 63]; *o++ = i + 1 < n ? t[v >> 6 & 63] : '='; *o++ = i + 2 < n ? t[v & 63] : '=';
    }
    *o = 0;
}

typedef struct Conn { int fd, upgraded, index, sent; uint8_t *out; uint32_t out_n, out_cap; } Conn;
static Conn **all; static int n_all, cap_all;
static uint8_t buffer[1 << 18], *joined; static uint32_t joined_n, joined_cap;
static struct { Conn *from; uint32_t at, n; } *pieces; static uint32_t pieces_n, pieces_cap;
static int ep;

static void *grow(void *p, uint32_t *cap, uint32_t need, size_t unit) {
    if (need <= *cap) return p;
    *cap = need * 2; p = realloc(p, *cap * unit); if (!p) exit(2); return p;
}
static void gone(Conn *c) {
    close(c->fd); c->fd = -1;
    if (c->index >= 0) { all[c->index] = all[--n_all]; all[c->index]->index = c->index; }
    for (uint32_t i = 0; i < pieces_n; i++) if (pieces[i].from == c) pieces[i].from = NULL;
    free(c->out); free(c);
}
static void push(Conn *c, const uint8_t *p, uint32_t n) {      /* a full socket keeps the rest; nobody waits */
    if (!c->out_n) { ssize_t w = send(c->fd, p, n, MSG_NOSIGNAL); if (w < 0) w = 0; p += w; n -= w; }
    if (!n) return;
    c->out = grow(c->out, &c->out_cap, c->out_n + n, 1); memcpy(c->out + c->out_n, p, n); c->out_n += n;
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c}; epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}
static void drain(Conn *c) {
    ssize_t w = send(c->fd, c->out, c->out_n, MSG_NOSIGNAL);
    if (w <= 0) return;
    memmove(c->out, c->out + w, c->out_n - w); c->out_n -= w;
    if (!c->out_n) { struct epoll_event e = {.events = EPOLLIN, .data.ptr = c}; epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e); }
}
static void readable(Conn *c) {
    ssize_t got = recv(c->fd, buffer, sizeof buffer, 0);
    if (got == 0 || (got < 0 && errno != EAGAIN)) { gone(c); return; }
    if (got < 0) return;
    uint8_t *p = buffer, *end = buffer + got;
    if (!c->upgraded) {
        buffer[got < (ssize_t)sizeof buffer ? got : got - 1] = 0;
        char *k = strcasestr((char *)buffer, "sec-websocket-key:"); if (!k) { gone(c); return; }
        k += 18; while (*k == ' ') k++;
        char text[128], accept[40]; uint8_t digest[20]; size_t n = strcspn(k, "\r\n"); if (n > 40) n = 40;
        memcpy(text, k, n); memcpy(text + n, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36); sha1((uint8_t *)text, n + 36, digest); base64(digest, 20, accept);
        char answer[256]; int m = snprintf(answer, sizeof answer, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n\x81\x06joined", accept);
        push(c, (uint8_t *)answer, m); c->upgraded = 1;
        if (n_all == cap_all) { cap_all = cap_all ? cap_all * 2 : 1024; all = realloc(all, cap_all * sizeof *all); }
        c->index = n_all; all[n_all++] = c;
        return;
    }
    while (end - p >= 6) {       /* frames of the load arrive whole: it writes them in one piece */
        uint32_t n = p[1] & 127, head = 6; if (n == 126) { n = p[2] << 8 | p[3]; head = 8; }
        if ((uint32_t)(end - p) < head + n) break;
        uint8_t *key = p + head - 4, *payload = p + head;
        if ((p[0] & 15) == 8) { gone(c); return; }
        joined = grow(joined, &joined_cap, joined_n + n + 4, 1);
        pieces = grow(pieces, &pieces_cap, pieces_n + 1, sizeof *pieces);
        pieces[pieces_n].from = c; pieces[pieces_n].at = joined_n;
        joined[joined_n++] = 0x80 | (p[0] & 15);
        if (n < 126) joined[joined_n++] = n; else { joined[joined_n++] = 126; joined[joined_n++] = n >> 8; joined[joined_n++] = n & 255; }
        for (uint32_t i = 0; i < n; i++) joined[joined_n + i] = payload[i] ^ key[i & 3];
        joined_n += n; pieces[pieces_n].n = joined_n - pieces[pieces_n].at; pieces_n++; c->sent = 1;
        p += head + n;
    }
}

/* The broker, RESP3: what is published comes to whoever is subscribed, also to whoever has published it.
 * The room is not that of bare_uvloop.py, which may be at the same broker. */
#define ROOM "relay"
#define LENGTH "5"
static int broker = -1; static char self[9]; static uint8_t heard[1 << 18]; static uint32_t heard_n;
static int tcp(const char *port, struct sockaddr_in *a) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    *a = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(port)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return fd;
}
static int tell(const char *text, const uint8_t *data, uint32_t n) {
    static uint8_t command[1 << 18]; int m = strlen(text);
    if (m + n + 2 > sizeof command) return -1;
    memcpy(command, text, m); memcpy(command + m, data, n); memcpy(command + m + n, "\r\n", 2);
    return send(broker, command, m + n + 2, MSG_NOSIGNAL) == m + n + 2 ? 0 : -1;
}
static int hear(void) {                                   /* -1: it is gone, or says what was not expected */
    static const char begins[] = ">3\r\n$8\r\nsmessage\r\n$" LENGTH "\r\n" ROOM "\r\n$";
    ssize_t got = recv(broker, heard + heard_n, sizeof heard - heard_n - 1, 0);
    if (got <= 0) return -1;
    heard_n += got; heard[heard_n] = 0;
    uint8_t *p = heard, *end = heard + heard_n, *found;
    while ((found = memmem(p, end - p, begins, sizeof begins - 1))) {
        char *data; uint32_t n = strtoul((char *)found + sizeof begins - 1, &data, 10);
        if ((uint8_t *)data + 2 + n + 2 > end) break;
        if (memcmp(data + 2, self, 8)) for (int i = 0; i < n_all; i++) push(all[i], (uint8_t *)data + 10, n - 8);
        p = (uint8_t *)data + 2 + n + 2;
    }
    if (!found && end - p < 32 && end > p && end[-1] == '\n') p = end;         /* an answer: a number */
    memmove(heard, p, end - p); heard_n = end - p;
    return heard_n < sizeof heard - 1 ? 0 : -1;
}
int main(int argc, char **argv) {
    if (argc < 2) return 2;
    signal(SIGPIPE, SIG_IGN);
    struct rlimit r; getrlimit(RLIMIT_NOFILE, &r); r.rlim_cur = r.rlim_max; setrlimit(RLIMIT_NOFILE, &r);
    struct sockaddr_in a; int l = tcp(argv[1], &a), one = 1; fcntl(l, F_SETFL, O_NONBLOCK);
    if (bind(l, (void *)&a, sizeof a) || listen(l, 4096)) { perror("listen"); return 1; }
    ep = epoll_create1(0); struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL}, events[1024]; epoll_ctl(ep, EPOLL_CTL_ADD, l, &e);
    if (argc > 2) {
        static const char hello[] = "HELLO 3\r\nSSUBSCRIBE " ROOM; struct sockaddr_in b; broker = tcp(argv[2], &b);
        if (connect(broker, (void *)&b, sizeof b) || tell(hello, NULL, 0)) { perror("broker"); return 1; }
        snprintf(self, sizeof self, "%08x", getpid()); e.data.ptr = &broker; epoll_ctl(ep, EPOLL_CTL_ADD, broker, &e);
    }
    printf("ready\n"); fflush(stdout);
    uint8_t *own = NULL; uint32_t own_cap = 0;
    for (;;) {
        int n = epoll_wait(ep, events, 1024, -1);
        for (int i = 0; i < n; i++) {
            Conn *c = events[i].data.ptr;
            if (c == (void *)&broker) { if (hear()) return 3; continue; }
            if (!c) {
                int fd;
                while ((fd = accept4(l, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    c = calloc(1, sizeof *c); c->fd = fd; c->index = -1; e.events = EPOLLIN; e.data.ptr = c; epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
                }
                continue;
            }
            if (events[i].events & EPOLLOUT) drain(c);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
        }
        if (!joined_n) continue;
        for (int i = 0; i < n_all; i++) {
            Conn *c = all[i];
            if (!c->sent) { push(c, joined, joined_n); continue; }
            uint32_t m = 0; c->sent = 0; own = grow(own, &own_cap, joined_n, 1);     /* all but what it wrote itself */
            for (uint32_t k = 0; k < pieces_n; k++) if (pieces[k].from != c) { memcpy(own + m, joined + pieces[k].at, pieces[k].n); m += pieces[k].n; }
            if (m) push(c, own, m);
        }
        if (broker >= 0) {
            char text[96]; snprintf(text, sizeof text, "*3\r\n$8\r\nSPUBLISH\r\n$" LENGTH "\r\n" ROOM "\r\n$%u\r\n%s", joined_n + 8, self);
            if (tell(text, joined, joined_n)) return 3;
        }
        joined_n = pieces_n = 0;
    }
}
