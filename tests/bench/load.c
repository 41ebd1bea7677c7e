/* The load: one thread, epoll, ready-made bytes. Knows no server and no protocol above RFC 6455 frames.
 *
 * Written in C so that it is never the bottleneck: it spends 0.1-0.3 us per delivery where the cheapest server
 * spends as much or more, and every answer says how busy its own core was. What is sent and what is waited
 * for comes from a plan that load.py writes, one block per connection:
 *
 *   plan  = magic "MBP1", u32 connections, connection*
 *   connection = u32 source address (host order), u8 steps, step*, u8 templates, template*
 *   step  = u32 n, n bytes to write, u8 m, m bytes       (wait for a frame that begins so; step 0: the 101)
 *   template = u32 n, n bytes of payload, i32 offset     (>= 0: twelve digits there are a running number)
 *
 * Commands come on stdin, one a line, `name key=value ...`; each is answered by one line of JSON.
 */
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
#include <time.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

typedef struct { uint32_t n; const uint8_t *p; uint8_t wait_n; const uint8_t *wait; } Step;
typedef struct { uint32_t n; const uint8_t *p; int32_t offset; } Template;
typedef struct {
    int fd;
    uint32_t source;
    uint8_t steps, step, templates, turn, dirty, joined;
    Step *step_list;
    Template *template_list;
    uint64_t level, answers, asked;   /* frames received or sent by itself; answers to what it asked */
    double since;                     /* when its latest request left */
    uint8_t *in; uint32_t in_n, in_cap;
    uint8_t *out; uint32_t out_n, out_cap;
    uint8_t writable_wanted;
} Conn;

#define RING 65536
#define READ_SIZE (1 << 18)
#define MAX_SAMPLES 4000000

static Conn *conns; static uint32_t total, opened;
static int ep; static struct sockaddr_in server;
static uint8_t scratch[READ_SIZE + (1 << 21)];
static uint32_t connecting, failed;
static uint64_t running_number;
static Conn **dirty; static uint32_t dirty_n;

/* what the current command looks for */
static double quiet_time;
static struct {
    char deliver[96], answer[96], answer2[96]; size_t deliver_n, answer_n, answer2_n;
    uint64_t deliveries, answers, others, bytes;
    int fanout, request;
    uint32_t members;
    uint32_t atleast[RING]; double sent_at[RING];
    uint64_t sent, completed;
} run;
static float *samples; static uint32_t sample_n;

/* the probe: one connection that asks for a pong every so often */
static Conn *probe; static double probe_next, probe_interval, probe_sent; static int probe_waiting;
static float *probe_samples; static uint32_t probe_n;
static char probe_prefix[96]; static size_t probe_prefix_n;

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
static double cpu_of(long pid) {
    if (!pid) return 0;
    struct timespec t; clockid_t c = (clockid_t)((~(unsigned)pid << 3) | 2);
    if (clock_gettime(c, &t)) return 0;
    return t.tv_sec + t.tv_nsec * 1e-9;
}
static double own_cpu(void) {
    struct timespec t; clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); return t.tv_sec + t.tv_nsec * 1e-9;
}
static void die(const char *what) { fprintf(stderr, "load: %s: %s\n", what, strerror(errno)); exit(2); }

static void want_write(Conn *c, int yes) {
    if (c->writable_wanted == yes) return;
    struct epoll_event e = {.events = EPOLLIN | (yes ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
    c->writable_wanted = yes;
}
static void lost(Conn *c) {
    if (c->fd < 0) return;
    if (getenv("LOAD_DEBUG")) fprintf(stderr, "load: connection %ld lost at step %d of %d: %s\n", (long)(c - conns), c->step, c->steps, strerror(errno));
    close(c->fd); c->fd = -1; c->in_n = c->out_n = 0; c->writable_wanted = 0;
    if (!c->joined && connecting) connecting--;
    c->joined = 0; failed++;
}
static void flush(Conn *c) {
    while (c->fd >= 0 && c->out_n) {
        ssize_t w = send(c->fd, c->out, c->out_n, MSG_NOSIGNAL);
        if (w < 0) { if (errno == EAGAIN) { want_write(c, 1); return; } lost(c); return; }
        memmove(c->out, c->out + w, c->out_n - w); c->out_n -= w;
    }
    if (c->fd >= 0) want_write(c, 0);
}
static uint8_t *room(Conn *c, uint32_t n) {
    if (c->out_n + n > c->out_cap) {
        c->out_cap = (c->out_n + n) * 2; c->out = realloc(c->out, c->out_cap); if (!c->out) die("memory");
    }
    uint8_t *p = c->out + c->out_n; c->out_n += n;
    if (!c->dirty) { c->dirty = 1; dirty[dirty_n++] = c; }
    return p;
}
static void put_raw(Conn *c, const uint8_t *p, uint32_t n) { memcpy(room(c, n), p, n); }
static void put_frame(Conn *c, uint8_t opcode, const uint8_t *payload, uint32_t n, int32_t number_at) {
    static const uint8_t key[4] = {0x37, 0xfa, 0x21, 0x3d};
    uint32_t head = n < 126 ? 6 : 8;
    uint8_t *p = room(c, head + n);
    p[0] = 0x80 | opcode;
    if (n < 126) { p[1] = 0x80 | n; memcpy(p + 2, key, 4); }
    else { p[1] = 0x80 | 126; p[2] = n >> 8; p[3] = n & 255; memcpy(p + 4, key, 4); }
    p += head;
    memcpy(p, payload, n);
    if (number_at >= 0) {
        uint64_t v = ++running_number;
        for (int i = 11; i >= 0; i--) { p[number_at + i] = '0' + v % 10; v /= 10; }
    }
    for (uint32_t i = 0; i < n; i++) p[i] ^= key[i & 3];
}
static void put_template(Conn *c) {
    Template *t = &c->template_list[c->turn];
    c->turn = (c->turn + 1) % c->templates;
    put_frame(c, 1, t->p, t->n, t->offset);
}
static void flush_dirty(void) { for (uint32_t i = 0; i < dirty_n; i++) { dirty[i]->dirty = 0; flush(dirty[i]); } dirty_n = 0; }

static void next_step(Conn *c) {
    if (c->step == c->steps) { c->joined = 1; connecting--; if (sample_n < MAX_SAMPLES) samples[sample_n++] = now() - c->since; return; }
    put_raw(c, c->step_list[c->step].p, c->step_list[c->step].n);
    if (!c->step_list[c->step].wait_n) { c->step++; next_step(c); }
}
static void open_conn(Conn *c) {
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket");
    int one = 1; setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (c->source) {
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(c->source)};
        if (bind(c->fd, (void *)&a, sizeof a)) die("bind");
    }
    c->step = 0; c->joined = 0; c->turn = 0; c->level = 0; c->in_n = c->out_n = 0; c->writable_wanted = 1; c->dirty = 0;
    connecting++; c->since = now();
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e)) die("epoll");
    int r = connect(c->fd, (void *)&server, sizeof server);
    if (r && errno != EINPROGRESS) { lost(c); return; }
    put_raw(c, c->step_list[0].p, c->step_list[0].n);
}
static int begins(const uint8_t *p, uint64_t n, const void *prefix, size_t m) { return m && n >= m && !memcmp(p, prefix, m); }

static void level_up(Conn *c) {
    uint32_t k = c->level++ % RING;
    if (++run.atleast[k] == run.members && run.fanout) {
        run.atleast[k] = 0;
        double d = now() - run.sent_at[run.completed % RING];
        run.completed++;
        if (sample_n < MAX_SAMPLES) samples[sample_n++] = d;
    }
}
static void got_frame(Conn *c, uint8_t opcode, const uint8_t *p, uint64_t n) {
    if (opcode == 9) { put_frame(c, 10, p, n > 125 ? 125 : n, -1); return; }
    if (opcode == 8) { if (getenv("LOAD_DEBUG")) fprintf(stderr, "load: close %d %.*s\n", n > 1 ? p[0] << 8 | p[1] : 0, n > 2 ? (int)n - 2 : 0, (const char *)p + 2); return; }
    if (n == 1 && *p == '2') { put_frame(c, 1, (const uint8_t *)"3", 1, -1); return; }   /* Engine.IO ping */
    if (!c->joined) {
        Step *s = &c->step_list[c->step];
        if (begins(p, n, s->wait, s->wait_n)) { c->step++; next_step(c); }
        else if (getenv("LOAD_DEBUG") && begins(p, n, "{\"type\":\"error\"", 15)) fprintf(stderr, "load: %.*s\n", (int)n, p);
        return;
    }
    if (c == probe && probe_waiting && begins(p, n, probe_prefix, probe_prefix_n)) {
        double d = now() - probe_sent; probe_waiting = 0;
        if (probe_n < MAX_SAMPLES) probe_samples[probe_n++] = d;
        return;
    }
    if (begins(p, n, run.deliver, run.deliver_n)) { run.deliveries++; if (run.fanout) level_up(c); }
    else if (begins(p, n, run.answer, run.answer_n) || begins(p, n, run.answer2, run.answer2_n)) {
        run.answers++; c->answers++;
        if (run.request && sample_n < MAX_SAMPLES) samples[sample_n++] = now() - c->since;
    } else {
        run.others++;
        if (getenv("LOAD_DEBUG") && begins(p, n, "{\"type\":\"error\"", 15)) fprintf(stderr, "load: %.*s\n", (int)n, p);
    }
}
static void readable(Conn *c) {
    if (c->in_n) memcpy(scratch, c->in, c->in_n);
    ssize_t got = recv(c->fd, scratch + c->in_n, READ_SIZE, 0);
    if (got == 0 || (got < 0 && errno != EAGAIN)) { if (!got) errno = 0; lost(c); return; }
    if (got < 0) return;
    run.bytes += got;
    uint8_t *p = scratch, *end = scratch + c->in_n + got;
    if (!c->joined && c->step == 0) {
        uint8_t *eoh = memmem(p, end - p, "\r\n\r\n", 4);
        if (eoh) {
            if (!begins(p, end - p, "HTTP/1.1 101", 12)) {
                if (getenv("LOAD_DEBUG")) fprintf(stderr, "load: %.*s\n", (int)(end - p), p);
                lost(c); return;
            }
            p = eoh + 4; c->step = 1; next_step(c);
        } else goto keep;
    }
    while (end - p >= 2) {
        uint64_t n = p[1] & 127; uint32_t head = 2;
        if (n == 126) { if (end - p < 4) break; n = (uint64_t)p[2] << 8 | p[3]; head = 4; }
        else if (n == 127) { if (end - p < 10) break; n = 0; for (int i = 2; i < 10; i++) n = n << 8 | p[i]; head = 10; }
        if ((uint64_t)(end - p) < head + n) break;
        got_frame(c, p[0] & 15, p + head, n);
        if (c->fd < 0) return;
        p += head + n;
    }
keep:;
    uint32_t rest = end - p;
    if (rest) {
        if (rest > c->in_cap) { c->in_cap = rest * 2; c->in = realloc(c->in, c->in_cap); if (!c->in) die("memory"); }
        memcpy(c->in, p, rest);
    } else if (c->in_cap > 4096) { free(c->in); c->in = NULL; c->in_cap = 0; }
    c->in_n = rest;
    if (c->in_n > (1 << 20)) { errno = EMSGSIZE; lost(c); }
}

static int stdin_ready;
static void turn(int timeout_ms) {
    static struct epoll_event events[1024];
    if (probe && probe_interval > 0) {
        double t = now();
        if (probe->fd < 0 || !probe->joined) { /* gone */ }
        else if (!probe_waiting && t >= probe_next) {
            Template *m = &probe->template_list[0];
            put_frame(probe, 1, m->p, m->n, m->offset);
            probe_sent = t; probe_waiting = 1; probe_next = t + probe_interval; flush_dirty();
        }
        if (timeout_ms > 1) timeout_ms = 1;
    }
    int n = epoll_wait(ep, events, 1024, timeout_ms);
    for (int i = 0; i < n; i++) {
        Conn *c = events[i].data.ptr;
        if (!c) { stdin_ready = 1; continue; }
        if (c->fd < 0) continue;
        if (events[i].events & EPOLLOUT) flush(c);
        if (c->fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
    }
    flush_dirty();
}

/* arguments */
static char line[4096];
static const char *text(const char *key, const char *otherwise) {
    static char value[16][256]; static int at;
    size_t n = strlen(key); char *p = line;
    while ((p = strstr(p, key))) {
        if (p > line && p[-1] == ' ' && p[n] == '=') {
            char *v = value[at++ % 16]; size_t m = strcspn(p + n + 1, " \n"); if (m > 255) m = 255;
            memcpy(v, p + n + 1, m); v[m] = 0;
            for (char *q = v; *q; q++) if (*q == 1) *q = ' ';      /* load.py writes a space so */
            return v;
        }
        p += n;
    }
    return otherwise;
}
static double number(const char *key, double otherwise) { const char *v = text(key, NULL); return v ? atof(v) : otherwise; }

static int ascending(const void *a, const void *b) { float x = *(float *)a, y = *(float *)b; return x < y ? -1 : x > y; }
static void percentiles(const char *name, float *s, uint32_t n) {
    qsort(s, n, sizeof *s, ascending);
    printf(", \"%s_n\": %u", name, n);
    if (n) printf(", \"%s_p50\": %.7f, \"%s_p99\": %.7f, \"%s_max\": %.7f", name, s[n / 2], name, s[(uint32_t)(n * 0.99)], name, s[n - 1]);
}
static uint32_t joined_count(void) { uint32_t n = 0; for (uint32_t i = 0; i < opened; i++) n += conns[i].joined; return n; }
static void set_probe(void) {
    double every = number("probe", 0);
    probe_interval = every; probe_n = 0; probe_waiting = 0; probe_next = now();
    const char *pong = text("pong", ""); snprintf(probe_prefix, sizeof probe_prefix, "%s", pong); probe_prefix_n = strlen(probe_prefix);
    int at = (int)number("probe_conn", -1);
    probe = every > 0 && at >= 0 && (uint32_t)at < opened ? &conns[at] : NULL;
}
static void report(const char *name, double t0, double cpu0, double own0, long pid) {
    double t = now() - t0;
    printf("{\"command\": \"%s\", \"seconds\": %.6f, \"server_cpu\": %.6f, \"client_cpu\": %.6f", name, t, cpu_of(pid) - cpu0, own_cpu() - own0);
    printf(", \"quiet\": %.6f, \"sent\": %lu, \"deliveries\": %lu, \"answers\": %lu, \"others\": %lu, \"bytes\": %lu, \"joined\": %u, \"failed\": %u",
           quiet_time, run.sent, run.deliveries, run.answers, run.others, run.bytes, joined_count(), failed);
    percentiles("latency", samples, sample_n);
    percentiles("probe", probe_samples, probe_n);
    printf("}\n"); fflush(stdout);
    probe_interval = 0; probe = NULL; run.fanout = run.request = 0; run.deliver_n = run.answer_n = run.answer2_n = 0;
}
static void begin(void) {
    memset(&run, 0, sizeof run); sample_n = 0; failed = 0; quiet_time = 0;
    snprintf(run.deliver, sizeof run.deliver, "%s", text("deliver", "")); run.deliver_n = strlen(run.deliver);
    snprintf(run.answer, sizeof run.answer, "%s", text("answer", "")); run.answer_n = strlen(run.answer);
    snprintf(run.answer2, sizeof run.answer2, "%s", text("answer2", "")); run.answer2_n = strlen(run.answer2);
    set_probe();
}

/* connect count=N window=W [again=1]: opens the next N of the plan, or, with again, resets them all and opens them anew */
static void do_connect(void) {
    long pid = (long)number("pid", 0); uint32_t count = (uint32_t)number("count", total), window = (uint32_t)number("window", 256);
    double limit = number("limit", 60); int again = (int)number("again", 0);
    begin();
    uint32_t first = opened, last;
    double own0 = own_cpu(), cpu0 = cpu_of(pid), t0 = now();
    if (again) {
        first = 0; last = opened;
        for (uint32_t i = 0; i < opened; i++) {
            if (&conns[i] == probe || conns[i].fd < 0) continue;
            struct linger l = {1, 0}; setsockopt(conns[i].fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
            close(conns[i].fd); conns[i].fd = -1; conns[i].joined = 0;
        }
    } else last = opened = first + count > total ? total : first + count;
    connecting = 0;
    uint32_t next = first; double stop = t0 + limit;
    while ((next < last || connecting) && now() < stop) {
        for (int burst = 0; next < last && connecting < window && burst < 64; next++) {
            if (conns[next].fd >= 0) continue;
            open_conn(&conns[next]); burst++;
        }
        turn(next < last && connecting < window ? 0 : 5);
        if (again && next == last && !connecting && joined_count() < last - first) next = first;    /* refused: come again */
    }
    report("connect", t0, cpu0, own0, pid);
}
/* fanout inflight=W senders=S seconds=T: W messages in flight, a message is over when every member has it */
static void do_fanout(void) {
    long pid = (long)number("pid", 0); uint32_t window = (uint32_t)number("inflight", 1), senders = (uint32_t)number("senders", 1);
    double seconds = number("seconds", 1); uint32_t first = (uint32_t)number("first", 0);
    int echo = (int)number("echo", 0);       /* this server sends to the sender, too */
    double quiet = now() + 0.02; uint64_t before = run.bytes, bound = 0;        /* what an earlier command left behind */
    while (now() < quiet && bound++ < 1000000) { turn(5); if (run.bytes != before) { before = run.bytes; quiet = now() + 0.02; } }
    begin(); run.fanout = 1; run.members = (uint32_t)number("members", opened);
    for (uint32_t i = 0; i < opened; i++) conns[i].level = 0;
    double own0 = own_cpu(), cpu0 = cpu_of(pid), t0 = now(), stop = t0 + seconds;
    while (now() < stop + 20) {
        int over = now() >= stop;
        if (over && run.completed == run.sent) break;
        while (!over && run.sent - run.completed < window) {
            Conn *c = &conns[first + run.sent % senders];
            if (c->fd < 0) break;
            run.sent_at[run.sent % RING] = now(); put_template(c); run.sent++; if (!echo) level_up(c);
        }
        flush_dirty();
        turn(20);
    }
    uint64_t missing = run.sent > run.completed ? run.sent - run.completed : 0;
    failed += missing;
    report("fanout", t0, cpu0, own0, pid);
}
/* rounds burst=B senders=S: everybody writes B frames at once, then the control connection (0) asks for a pong */
static void do_rounds(void) {
    long pid = (long)number("pid", 0); uint32_t burst = (uint32_t)number("burst", 1), senders = (uint32_t)number("senders", 1);
    double seconds = number("seconds", 1);
    begin();
    double own0 = own_cpu(), cpu0 = cpu_of(pid), t0 = now(), stop = t0 + seconds;
    Conn *control = &conns[0]; control->answers = 0; uint64_t rounds = 0;
    while (now() < stop && control->fd >= 0) {
        for (uint32_t i = 1; i <= senders; i++) {
            if (conns[i].fd < 0) continue;
            for (uint32_t b = 0; b < burst; b++) { put_template(&conns[i]); run.sent++; }
        }
        flush_dirty();
        put_template(control); flush_dirty(); rounds++;
        double patience = now() + 5;
        while (control->answers < rounds && control->fd >= 0 && now() < patience) turn(20);
        if (control->answers < rounds) { failed++; break; }
    }
    report("rounds", t0, cpu0, own0, pid);
}
/* request senders=S: each keeps one request in flight until its own answer has come */
static void do_request(void) {
    long pid = (long)number("pid", 0); uint32_t senders = (uint32_t)number("senders", 1), first = (uint32_t)number("first", 0);
    double seconds = number("seconds", 1); uint32_t window = (uint32_t)number("inflight", 1);
    begin(); run.request = 1;
    for (uint32_t i = first; i < first + senders; i++) conns[i].answers = conns[i].asked = 0;
    double own0 = own_cpu(), cpu0 = cpu_of(pid), t0 = now(), stop = t0 + seconds;
    for (;;) {
        double t = now(); int over = t >= stop;
        if (t > stop + 5 || (over && run.answers >= run.sent)) break;
        if (!over) for (uint32_t i = first; i < first + senders; i++) {
            Conn *c = &conns[i];
            while (c->fd >= 0 && c->asked - c->answers < window) { c->since = t; put_template(c); c->asked++; run.sent++; }
        }
        flush_dirty();
        turn(20);
    }
    double over = now(), each = number("expect", 0);       /* what is still on its way */
    while (run.deliveries < each * run.answers && now() < over + 5) turn(5);
    failed += run.sent > run.answers ? run.sent - run.answers : 0;
    quiet_time = now() - over;
    report("request", t0, cpu0, own0, pid);
}
/* paced rate=R senders=S seconds=T: an open loop */
static void do_paced(void) {
    long pid = (long)number("pid", 0); uint32_t senders = (uint32_t)number("senders", 1), first = (uint32_t)number("first", 0);
    double seconds = number("seconds", 1), rate = number("rate", 0);
    begin();
    double own0 = own_cpu(), cpu0 = cpu_of(pid), t0 = now(), stop = t0 + seconds;
    while (now() < stop) {
        uint64_t due = (uint64_t)((now() - t0) * rate);
        while (run.sent < due) { Conn *c = &conns[first + run.sent % senders]; if (c->fd >= 0) put_template(c); run.sent++; }
        flush_dirty();
        turn(rate > 0 ? 1 : 5);
    }
    report("paced", t0, cpu0, own0, pid);
}

static uint8_t *plan; static size_t plan_at;
static uint32_t take(int n) { uint32_t v = 0; for (int i = 0; i < n; i++) v |= (uint32_t)plan[plan_at++] << (8 * i); return v; }
static const uint8_t *span(uint32_t n) { const uint8_t *p = plan + plan_at; plan_at += n; return p; }

int main(int argc, char **argv) {
    if (argc < 4) { fprintf(stderr, "usage: load PLAN HOST PORT\n"); return 2; }
    signal(SIGPIPE, SIG_IGN);
    struct rlimit r; getrlimit(RLIMIT_NOFILE, &r); r.rlim_cur = r.rlim_max; setrlimit(RLIMIT_NOFILE, &r);
    FILE *f = fopen(argv[1], "rb"); if (!f) die("plan");
    fseek(f, 0, SEEK_END); long size = ftell(f); rewind(f);
    plan = malloc(size); if (!plan || fread(plan, 1, size, f) != (size_t)size) die("plan");
    fclose(f);
    if (size < 8 || memcmp(plan, "MBP1", 4)) { fprintf(stderr, "load: not a plan\n"); return 2; }
    plan_at = 4; total = take(4);
    conns = calloc(total + 1, sizeof *conns); dirty = calloc(2 * total + 2, sizeof *dirty);
    samples = malloc(sizeof(float) * MAX_SAMPLES); probe_samples = malloc(sizeof(float) * MAX_SAMPLES);
    if (!conns || !dirty || !samples || !probe_samples) die("memory");
    for (uint32_t i = 0; i < total; i++) {
        Conn *c = &conns[i]; c->fd = -1; c->source = take(4);
        c->steps = take(1); c->step_list = calloc(c->steps + 1, sizeof(Step));
        for (int s = 0; s < c->steps; s++) {
            Step *q = &c->step_list[s]; q->n = take(4); q->p = span(q->n); q->wait_n = take(1); q->wait = span(q->wait_n);
        }
        c->templates = take(1); c->template_list = calloc(c->templates + 1, sizeof(Template));
        for (int t = 0; t < c->templates; t++) {
            Template *q = &c->template_list[t]; q->n = take(4); q->p = span(q->n); q->offset = (int32_t)take(4);
        }
    }
    server.sin_family = AF_INET; server.sin_port = htons(atoi(argv[3])); inet_pton(AF_INET, argv[2], &server.sin_addr);
    if ((ntohl(server.sin_addr.s_addr) >> 24) != 127) { fprintf(stderr, "load: loopback addresses only\n"); return 2; }
    ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, 0, &e)) die("stdin");
    printf("{\"command\": \"ready\", \"connections\": %u}\n", total); fflush(stdout);
    for (;;) {
        turn(1000);
        if (!stdin_ready) continue;
        stdin_ready = 0;
        ssize_t n = read(0, line, sizeof line - 1);
        if (n <= 0) return 0;
        line[n] = 0;
        if (!strncmp(line, "connect", 7)) do_connect();
        else if (!strncmp(line, "fanout", 6)) do_fanout();
        else if (!strncmp(line, "rounds", 6)) do_rounds();
        else if (!strncmp(line, "request", 7)) do_request();
        else if (!strncmp(line, "paced", 5)) do_paced();
        else if (!strncmp(line, "quit", 4)) return 0;
        else { printf("{\"command\": \"error\"}\n"); fflush(stdout); }
    }
}
