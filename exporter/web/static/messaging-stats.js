// <messaging-stats src="/v1/messaging/stats" token="…" refresh="2"> shows one messaging-exporter, live.
//
// One ES module without a build step, a dependency or a request to any other host than that of `src`. It asks two
// addresses: `src` every `refresh` seconds, and `src`/history when its next sample is due. It shows what they say and
// works out nothing but ages, peaks and shares; what is null there is "unknown" here, with the reason that was given.
//
// The elements are made once and then only their text changes, so nothing flickers or moves. Styles are a constructed
// sheet and no HTML is ever parsed: the strictest Content-Security-Policy and Trusted Types are met.
//
// Events: `messaging-stats-update` (detail: the JSON of `src`) after every answer, `messaging-stats-denied` (detail:
// {status, reason}) when the token or cookie is refused, and then nothing is asked until `src` or `token` is set anew.

const DEFAULT_SRC = '/v1/messaging/stats';
const DEFAULT_REFRESH = 2; // seconds
const SHORTEST_REFRESH = 0.25;
const LONGEST_PAUSE = 10; // seconds between two attempts while the server does not answer
const TIME_OUT = 8; // seconds for one answer; twice the refresh time when that is longer
const STALE = 15; // seconds after which an age is marked
const SHORTEST_WINDOW = 60; // seconds that a chart spans at least: it grows with what there is to an hour
const LONGEST_WINDOW = 3600;

const NO_REASON = 'the server gave no reason';
const BINS = 72; // points of a line: 50 s each in an hour, one sample each up to twelve minutes

const FIGURES = [
  ['active_connections', 'Connections', 'Open, authenticated WebSocket connections'],
  ['connected_users', 'Users', 'Distinct users behind the connections'],
  ['active_conversations', 'Conversations', 'Conversations that somebody has joined'],
  ['total_participants', 'Participants', 'Pairs of user and conversation that are joined'],
  ['typing_users', 'Typing', 'Pairs of user and conversation in which somebody types'],
];
const RATES = [
  ['messages', 'Messages', 'Messages accepted, each once durable'],
  ['deliveries', 'Deliveries', 'Messages handed to connections'],
  ['joins', 'Joins', 'Users who joined a conversation'],
  ['connects', 'Connects', 'Connections opened'],
];
const CLOSED = [
  ['client', 'The client left'],
  ['shutdown', 'The server shut down'],
  ['heartbeat', 'Heartbeat unanswered'],
  ['slow_consumer', 'Slow consumer'],
  ['protocol_error', 'Protocol error'],
  ['rate_limited', 'Too many frames'],
  ['token_expired', 'Token expired'],
  ['internal_error', 'Internal error'],
];
const TOTALS = [
  ['total_messages', 'Messages'],
  ['messages_today', 'Messages today'],
  ['total_conversations', 'Conversations'],
  ['registered_users', 'Registered users'],
];
const HEALTH = [
  ['server', 'Server'],
  ['live', 'Live figures'],
  ['cluster', 'Cluster'],
  ['database', 'Database'],
  ['lines', 'History'],
];
const ACTIVE = [
  ['1d', 'Today'],
  ['7d', '7 days'],
  ['30d', '30 days'],
];

const CSS = `
:host {
  display: block;
  container-type: inline-size;
  --ink: light-dark(#15181d, #eceef1);
  --muted: light-dark(#59616c, #9ba4b0);
  --line: light-dark(#dfe2e6, #2c3138);
  --rule: light-dark(#15181d, #6b7480);
  --accent: var(--messaging-stats-accent, light-dark(#1763b6, #6cb2f7));
  --good: light-dark(#18794e, #4cc38a);
  --warn: light-dark(#8f5600, #f0b13c);
  --bad: light-dark(#b8232b, #ff8078);
  color: var(--ink);
  font-family: var(--messaging-stats-font, Inter, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif);
  font-variant-numeric: tabular-nums lining-nums;
  line-height: 1.4;
  text-align: start;
}
:host([hidden]) { display: none; }
* { box-sizing: border-box; margin: 0; }
.panel {
  font-size: max(0.9375rem, 0.68rem + 0.36cqi, 1.04cqi);
  display: grid;
  gap: 1.6em 2.5em;
  grid-template-columns: minmax(0, 1fr);
}
.status {
  display: grid; grid-template-columns: minmax(0, 1fr); align-items: baseline; gap: 0 1.5em;
  min-height: 2.8em; margin-block-end: -0.8em; color: var(--muted); font-size: 0.875em;
}
.state { color: var(--ink); display: flex; gap: 0.6em; align-items: baseline; }
.dot { flex: none; inline-size: 0.6em; block-size: 0.6em; border-radius: 50%; background: var(--muted); }
.live .dot { background: var(--good); }
.live.hurt .dot { background: var(--warn); border-radius: 0; }
.lost .dot, .denied .dot { background: var(--bad); border-radius: 0; }
.lost .state, .denied .state { color: var(--bad); font-weight: 600; }
section { border-block-start: 2px solid var(--rule); padding-block-start: 0.6em; min-inline-size: 0; }
header { display: flex; justify-content: space-between; align-items: baseline; gap: 0 1em; }
h2 { white-space: nowrap; }
header p { flex: 1; min-inline-size: 0; text-align: end; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
h2 { font-size: 0.9375em; font-weight: 650; letter-spacing: -0.005em; }
header p, .note { color: var(--muted); font-size: 0.8125em; }
.note { min-height: 2.8em; margin-block-start: 0.7em; overflow-wrap: anywhere; } /* two lines: a reason moves nothing */
.note.bad, header p.bad { color: var(--bad); }

.figures { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.5em; margin-block-start: 0.9em; }
.figures > :first-child { grid-column: 1 / -1; }
dt { color: var(--muted); }
.figures dt { font-size: 0.9375em; }
.figures .number { font-size: 2.25em; font-weight: 600; letter-spacing: -0.03em; line-height: 1.15; display: block; block-size: 1.15em; }
.figures > :first-child .number { font-size: 3.25em; }
.figures > .long:first-child .number { letter-spacing: -0.05em; }
.figures > .long:not(:first-child) .number { font-size: 1.375em; line-height: 1.882; block-size: 1.882em; }
.unknown .number { color: var(--muted); font-weight: 400; letter-spacing: 0; font-size: 1.25em; line-height: 2.07; block-size: 2.07em; }
.figures > .unknown:first-child .number { font-size: 1.25em; line-height: 2.99; block-size: 2.99em; }
.aged .number, .aged .value { color: var(--muted); }
.range { color: var(--muted); font-size: 0.8125em; display: block; min-height: 1.4em; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
svg { display: block; inline-size: 100%; block-size: 2.75em; overflow: visible; }
svg path { fill: none; vector-effect: non-scaling-stroke; stroke-linejoin: round; stroke-linecap: round; }
svg .base { stroke: var(--line); stroke-width: 1px; }
svg .area { fill: var(--accent); fill-opacity: 0.08; }
svg .band { fill: var(--accent); fill-opacity: 0.2; }
svg .curve { stroke: var(--accent); stroke-width: 1.5px; }
svg .tip { stroke: var(--accent); stroke-width: 5px; }
svg .cursor { stroke: var(--muted); stroke-width: 1px; }
.aged svg .curve, .aged svg .tip { stroke: var(--muted); }
.aged svg .area, .aged svg .band { fill: var(--muted); }

.rows { margin-block-start: 0.5em; }
.rows > div { display: grid; align-items: center; padding-block: 0.36em; border-block-end: 1px solid var(--line); gap: 0 1em; }
.rows > div:last-child { border-block-end: 0; }
.rates > div { grid-template-columns: minmax(0, 1.1fr) minmax(0, 1fr) minmax(0, 2fr); }
.rates svg { block-size: 2.35em; }
.rates .number { font-size: 1.375em; font-weight: 600; letter-spacing: -0.02em; line-height: 1.2; }
.rates .unknown .number { font-size: 0.9375em; line-height: 1.76; block-size: auto; }
.rates dd { min-inline-size: 0; }
.rates dd:last-child { display: grid; }
.totals > div { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); }
.active > div { grid-template-columns: minmax(0, 0.9fr) minmax(0, 1fr) minmax(0, 1.4fr) minmax(0, 0.6fr); }
.health > div { grid-template-columns: minmax(0, 1fr) minmax(0, 1.5fr) minmax(0, 0.9fr); align-items: baseline; }
.totals .value, .active .value { font-weight: 600; }
.value, .share, .age { text-align: end; white-space: nowrap; }
.totals .unknown .value, .active .unknown .value { font-weight: 400; color: var(--muted); }
.share, .age { color: var(--muted); font-size: 0.875em; }
.age.old { color: var(--warn); font-weight: 600; }
.bar { block-size: 0.4em; background: var(--line); border-radius: 0.2em; overflow: hidden; }
.bar > div { block-size: 100%; inline-size: 0; background: var(--accent); }
.aged .bar > div { background: var(--muted); }
.health dt, .word { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.word.good { color: var(--good); }
.word.bad { color: var(--bad); font-weight: 600; }

table { inline-size: 100%; border-collapse: collapse; margin-block-start: 0.5em; table-layout: fixed; }
th, td { padding: 0.24em 0; border-block-end: 1px solid var(--line); font-weight: 400; text-align: start; vertical-align: baseline; }
tbody tr:last-child > * { border-block-end: 0; }
th:not(:first-child), td { text-align: end; inline-size: 6.5em; }
thead th { color: var(--muted); font-size: 0.8125em; }
tbody th { color: var(--muted); }
td { color: var(--ink); font-weight: 600; }
td.none { color: var(--muted); font-weight: 400; }
tr.alarm td:not(.none), tr.alarm.some th { color: var(--bad); }
.aged td { color: var(--muted); }
.quiet { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }

svg { touch-action: pan-y; }
.now { position: relative; }
.moment { position: absolute; inset-block-start: 0.75em; inset-inline-start: 3.5em; inline-size: 7em; block-size: 1.1em; margin: 0; opacity: 0; pointer-events: none; accent-color: var(--accent); }
.moment:focus-visible { opacity: 1; outline: 2px solid var(--accent); outline-offset: 2px; }

@container (min-width: 44rem) {
  .moment { inline-size: 16em; }
  .status { grid-template-columns: minmax(0, 1fr) 14em; min-height: 1.4em; }
  .status p:last-child { text-align: end; }
  .panel { grid-template-columns: repeat(6, minmax(0, 1fr)); }
  .status, .now { grid-column: 1 / -1; }
  .speed, .ends { grid-column: span 3; }
  .sums, .people { grid-column: span 3; }
  .well { grid-column: 1 / -1; }
  .figures { grid-template-columns: repeat(4, minmax(0, 1fr)); }
}
@container (min-width: 60rem) {
  .figures { grid-template-columns: 1.6fr repeat(4, minmax(0, 1fr)); gap: 0; }
  .figures > :first-child { grid-column: auto; }
  .figures > div { padding-inline: 1.25em; border-inline-start: 1px solid var(--line); min-inline-size: 0; }
  .figures > div:first-child { padding-inline-start: 0; border-inline-start: 0; }
  .figures > div:last-child { padding-inline-end: 0; }
  .figures .number { block-size: 1.48em; line-height: 1.69; font-size: 2.5em; } /* on one baseline with the first */
  .figures > :first-child .number { font-size: 3.5em; line-height: 1; block-size: 1.057em; }
  .figures > .long:not(:first-child) .number { font-size: 1.375em; line-height: 2.9; block-size: 2.691em; }
  .figures > .unknown .number { font-size: 1.25em; line-height: 2.8; block-size: 2.96em; }
  .figures > .unknown:first-child .number { font-size: 1.25em; line-height: 2.8; block-size: 2.96em; }
}
@container (min-width: 68rem) {
  .sums, .people, .well { grid-column: span 2; }
}
@media (forced-colors: active) {
  .dot, .bar > div { forced-color-adjust: none; background: CanvasText; }
  svg .curve, svg .tip { stroke: CanvasText; }
}
`;

const SHEET = new CSSStyleSheet();
SHEET.replaceSync(CSS);

const SVG = 'http://www.w3.org/2000/svg';
const whole = new Intl.NumberFormat('en');
const decimals = [0, 1, 2].map((n) => new Intl.NumberFormat('en', { minimumFractionDigits: n, maximumFractionDigits: n }));
const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const minute = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' });

// --- small tools -----------------------------------------------------------------------------------------------

/** An element with attributes and children; strings become text. */
function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** Change a text only when it differs: an unchanged node costs no layout and is not read out again. */
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A number, or null for whatever else the JSON may hold. */
const known = (value) => (typeof value === 'number' && Number.isFinite(value) ? value : null);

/** A list, or an empty one for whatever else the JSON may hold. */
const list = (value) => (Array.isArray(value) ? value : []);

const plural = (number, thing) => `${whole.format(number)} ${thing}${number === 1 ? '' : 's'}`;

const count = (value) => (value === null ? 'unknown' : whole.format(value));

/** 0.04, 1.2, 150: as many decimals as the size of a rate deserves. */
function rate(value) {
  if (value === null) return 'unknown';
  if (value === 0 || value >= 100) return decimals[0].format(value);
  return decimals[value < 1 ? 2 : 1].format(value);
}

/** 7 s, 12 min, 5 h, 3 d: an age that a person reads. */
function age(seconds) {
  if (seconds === null) return '';
  const s = Math.max(0, Math.floor(seconds));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

/** Unix seconds of an RFC 3339 time, null when it is none. */
function moment(text) {
  const at = typeof text === 'string' ? Date.parse(text) : NaN;
  return Number.isNaN(at) ? null : at / 1000;
}

/** The length of a chart in words. */
function span(seconds) {
  if (seconds >= LONGEST_WINDOW) return 'last hour';
  const minutes = Math.round(seconds / 60);
  return minutes < 2 ? 'last minute' : `last ${minutes} min`;
}

/** The points in bins of `width` seconds, in runs without a gap: [[{at, mean, low, high}…]…]. The latest stays alone. */
function runs(points, from, width) {
  const found = [];
  let run = [];
  let bin = null;
  points.forEach(([at, value], i) => {
    if (value === null) {
      run = [];
      bin = null;
      return;
    }
    if (run.length === 0) found.push(run);
    const key = i === points.length - 1 ? Infinity : Math.floor((at - from) / width);
    if (bin === null || bin.key !== key) {
      bin = { key, n: 0, at: 0, mean: 0, low: value, high: value };
      run.push(bin);
    }
    bin.n += 1;
    bin.at += (at - bin.at) / bin.n;
    bin.mean += (value - bin.mean) / bin.n;
    bin.low = Math.min(bin.low, value);
    bin.high = Math.max(bin.high, value);
  });
  return found;
}

// --- a chart: one line over the window, from nought up -----------------------------------------------------------

class Chart {
  constructor() {
    this.svg = document.createElementNS(SVG, 'svg');
    this.svg.setAttribute('viewBox', '0 0 100 100');
    this.svg.setAttribute('preserveAspectRatio', 'none');
    this.svg.setAttribute('aria-hidden', 'true'); // what it shows is said in words beside it
    this.paths = {};
    for (const name of ['base', 'area', 'band', 'curve', 'tip', 'cursor']) {
      this.paths[name] = document.createElementNS(SVG, 'path');
      this.paths[name].setAttribute('class', name);
      this.svg.append(this.paths[name]);
    }
    this.paths.base.setAttribute('d', 'M0 100H100');
  }

  /**
   * Draw [[Unix seconds, value or null]…] over [from, from + seconds]; null leaves a gap. The line is the mean of what
   * lies in one BINth of the width, the band around it reaches from the lowest to the highest: no peak is smoothed away.
   */
  draw(points, from, seconds, peak) {
    const x = (t) => (((t - from) / seconds) * 100).toFixed(2);
    const y = (v) => (100 - (v / Math.max(peak, 1e-9)) * 94).toFixed(2);
    const paths = { curve: '', area: '', band: '', tip: '' };
    for (const run of runs(points, from, seconds / BINS)) {
      const line = run.map((bin) => `${x(bin.at)} ${y(bin.mean)}`).join('L');
      const high = run.map((bin) => `${x(bin.at)} ${y(bin.high)}`).join('L');
      const low = run.map((bin) => `${x(bin.at)} ${y(bin.low)}`).reverse().join('L');
      paths.curve += run.length > 1 ? `M${line}` : `M${line}h0`;
      paths.area += `M${x(run[0].at)} 100L${line}L${x(run[run.length - 1].at)} 100Z`;
      paths.band += `M${high}L${low}Z`;
    }
    const last = points[points.length - 1];
    if (last && last[1] !== null) paths.tip = `M${x(last[0])} ${y(last[1])}h0`;
    for (const [name, path] of Object.entries(paths)) this.#set(name, path);
  }

  /** A line at a share (0…1) of the width, none for null. */
  point(share) {
    this.#set('cursor', share === null ? '' : `M${(share * 100).toFixed(2)} 0V100`);
  }

  #set(name, path) {
    if (this.paths[name].getAttribute('d') !== path) this.paths[name].setAttribute('d', path);
  }
}

// --- the element -------------------------------------------------------------------------------------------------

export class MessagingStats extends HTMLElement {
  static observedAttributes = ['src', 'token', 'refresh'];

  #token = null; // set as a property it stays out of the document
  #nodes = {};
  #charts = [];
  #run = null; // the AbortController of the polling that is going on
  #wake = null; // ends the pause between two polls
  #stats = null;
  #history = null;
  #state = 'connecting';
  #answered = null; // performance.now() of the latest answer
  #serverTime = null; // the server's clock then, Unix seconds
  #historyDue = 0; // performance.now() from which the history is asked again
  #reason = '';
  #pointed = null; // where on the charts the pointer is: 0…1 of the width
  #ticker = 0;

  constructor() {
    super();
    const root = this.attachShadow({ mode: 'open' });
    root.adoptedStyleSheets = [SHEET];
    root.append(this.#build());
  }

  /** The address of the figures; their history lies at `/history` below it. */
  get src() { return this.getAttribute('src') ?? DEFAULT_SRC; }
  set src(value) { this.setAttribute('src', value); }

  /** A token of role admin, sent as `Authorization: Bearer`; null: the cookie of the admin page. */
  get token() { return this.#token ?? this.getAttribute('token'); }
  set token(value) {
    if ((value ?? null) === this.#token) return;
    this.#token = value ?? null;
    this.#restart();
  }

  /** Seconds between two polls. */
  get refresh() {
    const seconds = Number.parseFloat(this.getAttribute('refresh') ?? '');
    return Number.isFinite(seconds) ? Math.max(seconds, SHORTEST_REFRESH) : DEFAULT_REFRESH;
  }
  set refresh(value) { this.setAttribute('refresh', String(value)); }

  connectedCallback() {
    for (const name of ['src', 'token', 'refresh']) {
      if (!Object.hasOwn(this, name)) continue;
      const given = this[name]; // set before this module was there, hence past the setter
      delete this[name];
      this[name] = given;
    }
    document.addEventListener('visibilitychange', this.#onVisible);
    this.#ticker = setInterval(() => this.#renderAges(), 1000);
    this.#restart();
  }

  disconnectedCallback() {
    document.removeEventListener('visibilitychange', this.#onVisible);
    clearInterval(this.#ticker);
    this.#run?.abort();
    this.#run = null;
  }

  attributeChangedCallback(name, before, after) {
    if (before === after) return;
    if (name === 'refresh') this.#wake?.();
    else this.#restart();
  }

  // --- asking ------------------------------------------------------------------------------------------------------

  #onVisible = () => {
    if (!document.hidden) this.#wake?.();
  };

  #restart() {
    this.#run?.abort();
    this.#run = null;
    if (!this.isConnected) return;
    this.#run = new AbortController();
    this.#historyDue = 0;
    this.#state = 'connecting';
    this.#render();
    void this.#poll(this.#run.signal);
  }

  async #poll(signal) {
    let failures = 0;
    while (!signal.aborted) {
      try {
        await this.#ask(signal);
        failures = 0;
      } catch (error) {
        if (signal.aborted) return;
        failures += 1;
        this.#historyDue = 0; // whoever comes back may be another process with another past
        this.#state = 'lost';
        this.#reason = error instanceof Answer ? error.message : '';
        if (error instanceof Answer && (error.status === 401 || error.status === 403)) {
          this.#state = 'denied';
          this.#render();
          this.#emit('messaging-stats-denied', { status: error.status, reason: error.message });
          return;
        }
      }
      this.#render();
      if (failures === 0) {
        this.#emit('messaging-stats-update', this.#stats);
        await this.#askHistory(signal);
      }
      const pause = failures === 0 ? this.refresh : Math.max(this.refresh, Math.min(LONGEST_PAUSE, failures));
      await this.#pause(pause * 1000, signal);
    }
  }

  async #ask(signal) {
    const [stats, at] = await this.#get('', signal);
    if (signal.aborted) return;
    this.#stats = stats;
    this.#answered = performance.now();
    this.#serverTime = Math.max(at ?? 0, moment(stats.as_of) ?? 0) || Date.now() / 1000; // Date has whole seconds only
    this.#state = 'live';
  }

  /** When its next sample is due: the figures are shown already, and the server is there, so its lines may be late. */
  async #askHistory(signal) {
    if (performance.now() < this.#historyDue) return;
    try {
      const [history] = await this.#get('/history', signal);
      if (signal.aborted) return;
      this.#history = history;
      const latest = moment(history.as_of);
      const wait = latest === null ? 1 : latest + (known(history.step) ?? 10) + 0.25 - this.#serverTime;
      this.#historyDue = performance.now() + Math.min(Math.max(wait, 1), 60) * 1000;
      this.#render();
    } catch (error) {
      if (!signal.aborted) this.#historyDue = performance.now() + (error instanceof Answer ? 30000 : 2000);
    }
  }

  /** The JSON at `src` + path and the server's clock (Unix seconds; null when its Date may not be read). */
  async #get(path, signal) {
    const url = new URL(this.src, document.baseURI);
    url.pathname = url.pathname.replace(/\/$/, '') + path;
    const patience = AbortSignal.timeout(Math.max(TIME_OUT, 2 * this.refresh) * 1000);
    const token = this.token;
    const response = await fetch(url, {
      headers: token ? { Accept: 'application/json', Authorization: `Bearer ${token}` } : { Accept: 'application/json' },
      credentials: token ? 'omit' : 'same-origin',
      cache: 'no-store',
      signal: AbortSignal.any([signal, patience]),
    });
    const body = await response.json().catch(() => null);
    if (!response.ok || body === null || typeof body !== 'object') throw new Answer(response.status, body);
    const date = Date.parse(response.headers.get('Date') ?? '');
    return [body, Number.isNaN(date) ? null : date / 1000];
  }

  /** Wait; longer while nobody sees the page, and no longer when it is seen again or `refresh` changes. */
  #pause(milliseconds, signal) {
    return new Promise((resolve) => {
      let timer = 0;
      const done = () => {
        clearTimeout(timer);
        this.#wake = null;
        signal.removeEventListener('abort', done);
        resolve();
      };
      this.#wake = done;
      signal.addEventListener('abort', done);
      const elapsed = () => {
        if (document.hidden && !signal.aborted) timer = setTimeout(elapsed, 60000);
        else done();
      };
      timer = setTimeout(elapsed, milliseconds);
    });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail, bubbles: true, composed: true }));
  }

  // --- building: once ----------------------------------------------------------------------------------------------

  #build() {
    const n = this.#nodes;
    n.dot = el('span', { class: 'dot', 'aria-hidden': 'true' });
    n.state = el('span', { role: 'status' }, 'Connecting…');
    n.updated = el('span', {}, '');
    n.status = el('div', { class: 'status' }, el('p', { class: 'state' }, n.dot, n.state), el('p', {}, n.updated));
    n.panel = el(
      'div',
      { class: 'panel', lang: 'en' },
      n.status,
      this.#buildNow(),
      this.#buildRates(),
      this.#buildClosed(),
      this.#buildTotals(),
      this.#buildActive(),
      this.#buildHealth(),
    );
    return n.panel;
  }

  #section(key, title, aside, ...content) {
    const heading = el('h2', { id: key }, title);
    const section = el('section', { class: key, 'aria-labelledby': key }, el('header', {}, heading, aside), ...content);
    this.#nodes[key] = section;
    return section;
  }

  #chart(kind, name) {
    const chart = new Chart();
    const range = el('span', { class: 'range' });
    this.#charts.push({ kind, name, chart, range });
    chart.svg.addEventListener('pointermove', (event) => {
      const box = chart.svg.getBoundingClientRect();
      this.#point(Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)));
    });
    chart.svg.addEventListener('pointerleave', () => this.#point(null));
    return [chart.svg, range];
  }

  #buildNow() {
    this.#nodes.scope = el('p', {}, '');
    const attributes = { class: 'moment', type: 'range', min: 0, max: BINS, value: BINS, 'aria-label': 'Moment on the lines' };
    const moment = el('input', attributes); // for the keyboard what pointing is for the mouse; seen when focused
    moment.addEventListener('input', () => this.#point(moment.valueAsNumber / BINS));
    moment.addEventListener('focus', () => this.#point(moment.valueAsNumber / BINS));
    moment.addEventListener('blur', () => this.#point(null));
    this.#nodes.moment = moment;
    const rows = el('dl', { class: 'figures' });
    for (const [name, label, title] of FIGURES) {
      const number = el('span', { class: 'number' }, '–');
      const [svg, range] = this.#chart('figures', name);
      this.#nodes[name] = number;
      rows.append(el('div', {}, el('dt', { title }, label), el('dd', { 'data-figure': name }, number, svg, range)));
    }
    return this.#section('now', 'Now', this.#nodes.scope, moment, rows);
  }

  #buildRates() {
    this.#nodes.rateScope = el('p', {}, '');
    const rows = el('dl', { class: 'rows rates' });
    for (const [name, label, title] of RATES) {
      const number = el('span', { class: 'number' }, '–');
      const [svg, range] = this.#chart('rates', name);
      this.#nodes[`rate_${name}`] = number;
      const value = el('dd', { 'data-rate': name }, number);
      rows.append(el('div', {}, el('dt', { title }, label), value, el('dd', {}, svg, range)));
    }
    return this.#section('speed', 'Per second', this.#nodes.rateScope, rows);
  }

  #buildClosed() {
    const n = this.#nodes;
    n.closedScope = el('p', {}, '');
    n.closedHour = el('th', { scope: 'col' }, 'Last hour');
    const body = el('tbody');
    for (const [reason, label] of CLOSED) {
      const cells = ['last_minute', 'last_hour'].map((span) => {
        n[`${reason}_${span}`] = el('td', { 'data-closed': `${reason}.${span}` }, '–');
        return n[`${reason}_${span}`];
      });
      const row = el('tr', {}, el('th', { scope: 'row' }, label), ...cells);
      if (reason === 'internal_error') row.classList.add('alarm');
      body.append(row);
    }
    const head = el('tr', {}, el('th', { scope: 'col' }, 'Reason'), el('th', { scope: 'col' }, 'Last minute'), n.closedHour);
    return this.#section('ends', 'Connections closed', n.closedScope, el('table', {}, el('thead', {}, head), body));
  }

  #buildTotals() {
    this.#nodes.totalsAge = el('p', { class: 'age' }, '');
    this.#nodes.totalsNote = el('p', { class: 'note' });
    const rows = el('dl', { class: 'rows totals' });
    for (const [name, label] of TOTALS) {
      const value = el('dd', { class: 'value', 'data-figure': name }, '–');
      this.#nodes[name] = value;
      rows.append(el('div', {}, el('dt', {}, label), value));
    }
    return this.#section('sums', 'Stored', this.#nodes.totalsAge, rows, this.#nodes.totalsNote);
  }

  #buildActive() {
    const n = this.#nodes;
    n.activeAge = el('p', { class: 'age' }, '');
    n.activeNote = el('p', { class: 'note' });
    const rows = el('dl', { class: 'rows active' });
    for (const [window, label] of ACTIVE) {
      n[`bar_${window}`] = el('div');
      n[`active_${window}`] = el('dd', { class: 'value', 'data-active': window }, '–');
      n[`share_${window}`] = el('dd', { class: 'share' }, '');
      const bar = el('dd', { class: 'bar', 'aria-hidden': 'true' }, n[`bar_${window}`]);
      rows.append(el('div', {}, el('dt', {}, label), bar, n[`active_${window}`], n[`share_${window}`]));
    }
    return this.#section('people', 'Active users', n.activeAge, rows, n.activeNote);
  }

  #buildHealth() {
    const rows = el('dl', { class: 'rows health' });
    for (const [key, label] of HEALTH) {
      this.#nodes[`${key}Word`] = el('dd', { class: 'word', 'data-health': key }, '–');
      this.#nodes[`${key}Age`] = el('dd', { class: 'age', 'data-age': key }, '');
      rows.append(el('div', {}, el('dt', {}, label), this.#nodes[`${key}Word`], this.#nodes[`${key}Age`]));
    }
    this.#nodes.healthNote = el('p', { class: 'note bad' });
    return this.#section('well', 'Health', el('p', {}, 'age of each'), rows, this.#nodes.healthNote);
  }

  // --- showing: only texts and paths change ---------------------------------------------------------------------------

  #render() {
    this.#renderStatus();
    if (this.#stats) {
      this.#renderNow(this.#stats);
      this.#renderTotals(this.#stats);
    }
    if (this.#history) this.#renderHistory(this.#history);
    this.#renderCharts();
    this.#renderHealth();
    this.#renderAges();
  }

  #renderStatus() {
    const { status, state, panel } = this.#nodes;
    status.className = `status ${this.#state}`;
    status.classList.toggle('hurt', this.#databaseDown());
    panel.classList.toggle('aged', this.#state !== 'live' && this.#stats !== null);
    write(state, this.#statusText());
  }

  /** What is said aloud: it changes with the state, never with the seconds. */
  #statusText() {
    if (this.#state === 'live') return this.#databaseDown() ? 'Live, but the database is down' : 'Live';
    if (this.#state === 'connecting') return 'Connecting…';
    const since = this.#serverTime === null ? '' : ` Figures of ${clock.format(this.#serverTime * 1000)}.`;
    if (this.#state === 'denied') return `Not allowed to see the figures: ${this.#reason}.${since}`;
    return (this.#reason ? `Server in trouble: ${this.#reason}.` : 'Server lost.') + since; // one line on a phone
  }

  #databaseDown() {
    return this.#stats?.database?.up === false;
  }

  #scope(stats) {
    if (stats.scope !== 'cluster') return 'this node';
    const nodes = known(stats.nodes);
    return nodes === null ? 'whole cluster' : `whole cluster, ${plural(nodes, 'node')}`;
  }

  /** Why the live figures are not known, or not of the whole cluster. */
  #liveError(stats) {
    return stats.cluster?.error ?? stats.error ?? (stats.cluster?.up === false ? 'the cluster is not seen' : null);
  }

  #renderNow(stats) {
    const n = this.#nodes;
    let unknown = false;
    for (const [name] of FIGURES) {
      const value = known(stats[name]);
      unknown ||= value === null;
      write(n[name], count(value));
      n[name].closest('div').classList.toggle('unknown', value === null);
      n[name].closest('div').classList.toggle('long', value >= 1e6);
    }
    const seen = this.#scope(stats) + (this.#window() === null ? '' : ` · ${span(this.#window().seconds)}`);
    write(n.scope, unknown ? `Unknown: ${this.#liveError(stats) ?? NO_REASON}` : seen);
    n.scope.classList.toggle('bad', unknown);
  }

  #renderTotals(stats) {
    const n = this.#nodes;
    const registered = known(stats.registered_users);
    let unknown = false;
    const put = (node, value) => {
      unknown ||= value === null;
      write(node, count(value));
      node.parentElement.classList.toggle('unknown', value === null);
    };
    for (const [name] of TOTALS) put(n[name], known(stats[name]));
    for (const [window] of ACTIVE) {
      const value = known(stats.active_users?.[window]);
      put(n[`active_${window}`], value);
      const share = value === null || !registered ? null : value / registered;
      write(n[`share_${window}`], share === null ? '' : `${whole.format(Math.round(share * 100))} %`);
      n[`bar_${window}`].style.inlineSize = `${Math.min(1, share ?? 0) * 100}%`;
    }
    write(n.totalsNote, unknown ? sentence('Unknown', stats.database?.error ?? NO_REASON) : 'Rows that exist now; today is since 00:00 UTC');
    n.totalsNote.classList.toggle('bad', unknown);
    write(n.activeNote, 'Sent a message in the last 1, 7, 30 UTC days; share of the registered');
  }

  #renderHistory(history) {
    const n = this.#nodes;
    for (const [name] of RATES) {
      const values = list(history.rates?.[name]);
      const value = known(values[values.length - 1]);
      write(n[`rate_${name}`], rate(value));
      n[`rate_${name}`].closest('div').classList.toggle('unknown', value === null);
    }
    for (const [reason] of CLOSED) {
      for (const span of ['last_minute', 'last_hour']) {
        const value = known(history.closed?.[reason]?.[span]);
        const cell = n[`${reason}_${span}`];
        write(cell, count(value));
        cell.classList.toggle('none', !value);
      }
      const hour = n[`${reason}_last_hour`];
      hour.parentElement.classList.toggle('some', !hour.classList.contains('none'));
    }
    const since = moment(history.since);
    const short = since !== null && (known(history.length) ?? 0) * (known(history.step) ?? 10) < 3590;
    write(n.closedHour, short ? `Since ${minute.format(since * 1000)}` : 'Last hour');
    write(n.closedScope, 'this node');
  }

  /** The part of the history that is drawn: where it begins, how long it is, and the lines in it. */
  #window() {
    const history = this.#history ?? {};
    const step = known(history.step) ?? 10;
    const start = known(history.start);
    const length = known(history.length) ?? 0;
    if (start === null || length === 0 || this.#serverTime === null) return null;
    const end = Math.max(this.#serverTime, start + length * step);
    const seconds = Math.min(Math.max(end - start, SHORTEST_WINDOW), LONGEST_WINDOW);
    return { step, start, length, end, seconds, from: end - seconds };
  }

  #renderCharts() {
    const w = this.#window();
    if (w === null) return;
    for (const { kind, name, chart, range } of this.#charts) {
      const values = list(this.#history[kind]?.[name]);
      const points = values
        .map((value, i) => [Math.min(w.start + (i + 0.5) * w.step, w.end), known(value)])
        .filter(([at]) => at >= w.from);
      if (kind === 'figures') points.push([w.end, known(this.#stats[name])]);
      const all = points.map(([, value]) => value).filter((value) => value !== null);
      const peak = Math.max(0, ...all);
      chart.draw(points, w.from, w.seconds, peak);
      chart.point(this.#pointed);
      write(range, this.#rangeText(kind, points, all, peak, w));
    }
    if (this.#pointed !== null) this.#nodes.moment.setAttribute('aria-valuetext', this.#charts[0].range.textContent);
    write(this.#nodes.rateScope, `this node · ${span(w.seconds)}`);
  }

  /** Under a chart: lowest and highest of the window, or the value under the pointer. */
  #rangeText(kind, points, all, peak, w) {
    const format = kind === 'figures' ? count : rate;
    if (this.#pointed === null) {
      if (all.length === 0) return kind === 'rates' ? 'known after two samples' : '';
      return kind === 'figures' ? `${format(Math.min(...all))} to ${format(peak)}` : `peak ${format(peak)}`;
    }
    const at = w.from + this.#pointed * w.seconds;
    const near = points.reduce((best, p) => (Math.abs(p[0] - at) < Math.abs(best[0] - at) ? p : best), [-Infinity, null]);
    const there = Math.abs(near[0] - at) <= w.step ? format(near[1]) : 'unknown';
    return `${clock.format(at * 1000)} · ${there}`;
  }

  #point(share) {
    this.#pointed = share;
    this.#renderCharts();
  }

  #renderHealth() {
    const n = this.#nodes;
    const say = (key, text, mood) => {
      write(n[`${key}Word`], text);
      n[`${key}Word`].className = `word ${mood}`;
    };
    if (this.#state !== 'connecting') {
      const words = { live: 'answers', lost: this.#reason ? 'in trouble' : 'no answer', denied: 'refuses the token' };
      say('server', words[this.#state], this.#state === 'live' ? 'good' : 'bad');
    }
    const stats = this.#stats;
    if (stats === null) return;
    const trouble = this.#liveError(stats);
    const unknown = FIGURES.some(([name]) => known(stats[name]) === null);
    const scope = stats.scope === 'cluster' ? 'whole cluster' : 'this node';
    say('live', unknown ? 'unknown' : scope, unknown ? 'bad' : '');
    const alone = stats.scope !== 'cluster' && trouble === null;
    const nodes = known(stats.nodes);
    if (alone) say('cluster', 'none: one node', '');
    else say('cluster', trouble || nodes === null ? 'not seen' : plural(nodes, 'node'), trouble ? 'bad' : 'good');
    const database = stats.database ?? {};
    if (database.up === true) say('database', 'up', 'good');
    else say('database', database.up === false ? 'down' : 'unknown', 'bad');
    const reasons = [trouble, database.error ?? null].filter((reason) => reason !== null);
    write(n.healthNote, reasons.map((reason) => sentence('', reason)).join(' '));
    const since = moment(this.#history?.since);
    say('lines', since === null ? 'none yet' : `since ${minute.format(since * 1000)}`, '');
  }

  /** Ages go on by this machine's clock from the server's time in its latest answer. */
  #renderAges() {
    const n = this.#nodes;
    if (this.#answered === null) return;
    const silence = (performance.now() - this.#answered) / 1000;
    const now = this.#serverTime + silence;
    const since = (at) => (at === null ? null : now - at);
    const late = this.#state !== 'live' || silence >= this.refresh + 2;
    write(n.updated, late ? `last answer ${age(silence)} ago` : `as of ${clock.format(this.#serverTime * 1000)}`);
    const put = (node, seconds, text = age(seconds)) => {
      write(node, text);
      node.classList.toggle('old', seconds !== null && seconds >= Math.max(STALE, 3 * this.refresh));
    };
    put(n.serverAge, silence);
    put(n.liveAge, since(moment(this.#stats.as_of)));
    put(n.clusterAge, since(moment(this.#stats.cluster?.as_of)));
    const database = since(moment(this.#stats.database?.as_of));
    put(n.databaseAge, database, database === null ? 'never seen' : age(database));
    put(n.linesAge, since(moment(this.#history?.as_of)));
    const read = database === null ? '' : `read ${age(database)} ago`;
    put(n.totalsAge, database, read);
    put(n.activeAge, database, read);
  }
}

/** An answer that is not what was asked for; the message is for people, from the problem document where there is one. */
class Answer extends Error {
  constructor(status, body) {
    super((body?.detail ?? body?.title ?? `answer ${status}`).replace(/\.$/, ''));
    this.status = status;
  }
}

/** "Unknown: the database is down." from its two halves; the first may be missing. */
function sentence(start, rest) {
  const text = `${start ? `${start}: ` : ''}${String(rest).replace(/\.$/, '')}.`;
  return text.charAt(0).toUpperCase() + text.slice(1);
}

if (!customElements.get('messaging-stats')) customElements.define('messaging-stats', MessagingStats);
