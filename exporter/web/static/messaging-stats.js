// <messaging-stats src="/v1/messaging/stats" token="…" refresh="2"> shows one messaging-exporter, live.
//
// One ES module without a build step, a dependency or a request to any other host than that of `src`. It asks three
// addresses: `src` every `refresh` seconds, `src`/history when its next sample is due, `src`/days now and then. It shows
// what they say and works out nothing but ages, peaks and shares; what is null there is "unknown" here, with the reason.
//
// The elements are made once and then only their text changes, so nothing flickers or moves. Styles are a constructed
// sheet and no HTML is ever parsed: the strictest Content-Security-Policy and Trusted Types are met. The module may be
// imported where there is no browser (server rendering, tests): it then defines no element, and asks nothing.
//
// Events: `messaging-stats-update` (detail: the JSON of `src`) after every answer; `messaging-stats-denied` (detail:
// {status, reason}) when the token or cookie is refused, and then nothing is asked until `src` or `token` is set anew;
// `messaging-stats-state` (detail: {level, code, text, brief}) when the first line says something else.

const DEFAULT_SRC = '/v1/messaging/stats';
const DEFAULT_REFRESH = 2; // seconds
const SHORTEST_REFRESH = 0.25;
const LONGEST_REFRESH = 86400; // a timer that is longer than 24 days ends at once
const LONGEST_PAUSE = 10; // seconds between two attempts while the server does not answer
const TIME_OUT = 8; // seconds for one answer; twice the refresh time when that is longer
const STALE = 15; // seconds after which an age is marked
const SHORTEST_WINDOW = 60; // seconds that a chart spans at least: it grows with what there is to an hour
const LONGEST_WINDOW = 3600;
const DAYS_EVERY = 300; // seconds between two looks at the days
const DAYS = [30, 90];
const YOUNG = 600; // seconds after its start in which a server is said to have restarted
const LATE = 0.99; // share of deliveries within 0.25 s below which they are called late: the objective of the alerts
const MINUTE = 60;

const BINS = 72; // points of a line: 50 s each in an hour, one sample each up to twelve minutes

const FIGURES = ['active_connections', 'connected_users', 'active_conversations', 'total_participants', 'typing_users'];
const RATES = ['messages', 'deliveries', 'joins', 'connects'];
const QUALITY = ['delivered_in_time', 'sends_failed', 'connections_refused', 'commands_refused'];
const REASONS = {
  closed: [
    'client', 'shutdown', 'heartbeat', 'slow_consumer', 'protocol_error', 'rate_limited', 'token_expired', 'admin',
    'internal_error',
  ],
  refused_connections: ['unauthenticated', 'origin', 'capacity', 'user_limit', 'draining', 'handshake'],
  refused_commands: [
    'bad_frame', 'unknown_type', 'not_joined', 'forbidden', 'not_found', 'too_large', 'rate_limited', 'unavailable',
    'internal',
  ],
};
const ALARMING = ['internal_error', 'internal', 'unavailable', 'capacity']; // what no client does by itself
const TOTALS = ['total_messages', 'messages_today', 'total_conversations', 'registered_users'];
const ACTIVE = ['1d', '7d', '30d'];
const PER_DAY = ['messages', 'active_users'];
const HEALTH = ['server', 'uptime', 'live', 'cluster', 'database', 'checked', 'lines'];

/** Every text of the panel, in English. `labels` replaces some or all; {words in braces} are filled in. */
export const LABELS = Object.freeze({
  // The first line.
  connecting: 'Connecting…',
  all_is_well: 'All is well.',
  all_is_well_up: 'All is well. Up since {time}.',
  restarted: 'All is well. Up since {time}: the server has just started.',
  denied: 'Not allowed to see the figures: {reason}.',
  lost: 'Server lost{since}. Figures of then.',
  in_trouble: 'Server in trouble{since}: {reason}.',
  unreachable: 'No answer from {url}: the network or a proxy is in the way, or the server does not run.',
  blocked: 'No answer from {origin} that this page may read: network, proxy, or CORS (--web.cors-origins {page}).',
  policy: 'This page may not ask {origin}: its Content-Security-Policy (connect-src) forbids it.',
  mixed: 'A page over https may not ask {origin} over http.',
  timed_out: 'No answer from {url} within {seconds} s.',
  not_json: 'The answer from {url} is no JSON: a proxy or the page itself answers there (status {status}).',
  not_found: 'Nothing is at {url} (404): a proxy does not pass it on, or src is wrong.',
  database_down: 'Database down{since}: every send is refused.{reason}',
  source_down: 'The database of {name} is not seen{since}: {reason}.',
  source_wrong: 'Counters in the database of {name} are wrong{since} (conversations: {conversations}).',
  database_read_only: 'Database takes no writes{since}: every send is refused.{reason}',
  cluster_down: 'The other nodes are not seen{since}: {reason}.',
  totals_wrong: 'Stored totals are wrong{since}: run messaging-exporter verify --repair.',
  internal_errors: 'Internal errors close connections{since}: see the log.',
  sends_failing: 'Sends fail{since}.',
  at_capacity: 'Connections are refused{since}: the server is full.',
  deliveries_late: 'Deliveries are late{since}: less than {share} within 0.25 s.',
  since: ' since {time}',
  // The same in a few words, for a title.
  brief_denied: 'Not allowed',
  brief_lost: 'Server lost',
  brief_in_trouble: 'Server in trouble',
  brief_restarted: 'Just started',
  brief_database_down: 'Database down',
  brief_source_down: 'Database not seen',
  brief_source_wrong: 'Counters wrong',
  brief_database_read_only: 'Database read-only',
  brief_cluster_down: 'Nodes not seen',
  brief_totals_wrong: 'Totals wrong',
  brief_internal_errors: 'Internal errors',
  brief_sends_failing: 'Sends fail',
  brief_at_capacity: 'Server full',
  brief_deliveries_late: 'Deliveries late',
  // Headings.
  now: 'Now',
  speed: 'Per second',
  quality: 'Quality',
  days: 'Days',
  closed: 'Connections closed',
  refused_connections: 'Connections refused',
  refused_commands: 'Commands refused',
  stored: 'Stored',
  sources: 'Observed databases',
  people: 'Active users',
  health: 'Health',
  // Figures; what ends in _hint is shown when pointing at the name.
  active_connections: 'Connections',
  active_connections_hint: 'Open, authenticated WebSocket connections',
  connected_users: 'Users',
  connected_users_hint: 'Distinct users behind the connections',
  active_conversations: 'Conversations',
  active_conversations_hint: 'Conversations that somebody has joined',
  total_participants: 'Participants',
  total_participants_hint: 'Pairs of user and conversation that are joined',
  typing_users: 'Typing',
  typing_users_hint: 'Pairs of user and conversation in which somebody types',
  peak: 'top {value}, {time}',
  peak_hint: 'Highest since 00:00 UTC or since the start, of samples every {seconds} s',
  messages: 'Messages',
  messages_hint: 'Messages accepted, each once durable',
  deliveries: 'Deliveries',
  deliveries_hint: 'Messages handed to connections',
  joins: 'Joins',
  joins_hint: 'Users who joined a conversation',
  connects: 'Connects',
  connects_hint: 'Connections opened',
  delivered_in_time: 'In time',
  delivered_in_time_hint: 'Share of messages handed to the recipients within 0.25 s, since the start',
  sends_failed: 'Sends failed',
  sends_failed_hint: 'Messages that were not stored, through no fault of their sender, since the start',
  connections_refused: 'Refused',
  connections_refused_hint: 'Connections refused before the upgrade, since the start',
  commands_refused: 'Errors',
  commands_refused_hint: 'Commands answered with an error, since the start',
  total_messages: 'Messages',
  messages_today: 'Messages today',
  total_conversations: 'Conversations',
  registered_users: 'Registered users',
  '1d': 'Today',
  '7d': '7 days',
  '30d': '30 days',
  day_messages: 'Messages a day',
  day_active_users: 'Active people a day',
  show_days: '{n} days',
  download: 'CSV',
  download_hint: 'These days as a file of comma-separated values',
  // Reasons.
  reason: 'Reason',
  last_minute: 'Minute',
  last_hour: 'Hour',
  since_start: 'Start',
  since_start_hint: 'Since the start of the server',
  closed_client: 'The client left',
  closed_shutdown: 'The server shut down',
  closed_heartbeat: 'Heartbeat unanswered',
  closed_slow_consumer: 'Slow consumer',
  closed_protocol_error: 'Protocol error',
  closed_rate_limited: 'Too many frames',
  closed_token_expired: 'Token expired',
  closed_admin: 'By an admin',
  closed_internal_error: 'Internal error',
  refused_connections_unauthenticated: 'No valid token',
  refused_connections_origin: 'Foreign origin',
  refused_connections_capacity: 'Server full',
  refused_connections_user_limit: 'User at the limit',
  refused_connections_draining: 'Shutting down',
  refused_connections_handshake: 'Bad handshake',
  refused_commands_bad_frame: 'Malformed',
  refused_commands_unknown_type: 'Unknown type',
  refused_commands_not_joined: 'Not joined',
  refused_commands_forbidden: 'Forbidden',
  refused_commands_not_found: 'Not found',
  refused_commands_too_large: 'Too large',
  refused_commands_rate_limited: 'Too many frames',
  refused_commands_unavailable: 'Unavailable',
  refused_commands_internal: 'Internal error',
  // Health.
  server: 'Server',
  uptime: 'Up since',
  live: 'Live',
  cluster: 'Cluster',
  database: 'Database',
  checked: 'Totals',
  lines: 'History',
  ages: 'age of each',
  answers: 'answers',
  answers_version: 'version {version}',
  no_answer: 'no answer',
  trouble: 'in trouble',
  refuses: 'refuses the token',
  one_node: 'none: one node',
  observed: 'none: observed',
  not_seen: 'not seen',
  up: 'up',
  down: 'down',
  read_only: 'read-only',
  agree: 'recounted',
  differ: 'they differ',
  not_recounted: 'not recounted',
  source_differs: 'Counters differ from a recount (conversations: {conversations}): see messaging-exporter observe --check.',
  inaccurate: 'Totals differ from a recount (conversations: {conversations}, days: {days}, triggers missing: {triggers}).',
  none_yet: 'none yet',
  never_seen: 'never seen',
  // Scopes, ages and the rest.
  this_node: 'this node',
  whole_cluster: 'whole cluster',
  nodes_one: '{n} node',
  nodes_other: '{n} nodes',
  last_span: 'last {n} min',
  last_span_minute: 'last minute',
  last_span_hour: 'last hour',
  seconds: '{n} s',
  minutes: '{n} min',
  hours: '{n} h',
  days_old: '{n} d',
  as_of: 'as of {time}',
  last_answer: 'last answer {age} ago',
  read: 'read {age} ago',
  from: 'since {time}',
  range: '{low} to {high}',
  highest: 'peak {value}',
  lowest: 'lowest {value}',
  highest_day: 'peak {value} on {day}',
  moment: 'Moment on the lines',
  day: 'Day on the bars',
  unknown: 'unknown',
  nothing_yet: 'none yet',
  no_reason: 'the server gave no reason',
  unknown_because: 'Unknown: {reason}',
  two_samples: 'not yet known',
  cluster_not_seen: 'the cluster is not seen',
  stored_note: 'Rows that exist now; today is since 00:00 UTC',
  people_note: 'Sent a message in the last 1, 7, 30 UTC days; share of the registered',
  days_note: 'UTC days; a gap is a day of which it is not known',
  not_read_since: 'Not read since {time}: {reason}',
  no_days: 'This server keeps no record of days',
});

const CSS = `
:host {
  display: block;
  container-type: inline-size;
  --ink: var(--messaging-stats-ink, light-dark(#15181d, #eceef1));
  --muted: var(--messaging-stats-muted, light-dark(#59616c, #9ba4b0));
  --line: var(--messaging-stats-line, light-dark(#dfe2e6, #2c3138));
  --rule: light-dark(#15181d, #6b7480);
  --accent: var(--messaging-stats-accent, light-dark(#1763b6, #6cb2f7));
  --good: var(--messaging-stats-good, light-dark(#18794e, #4cc38a));
  --warn: var(--messaging-stats-warn, light-dark(#8f5600, #f0b13c));
  --bad: var(--messaging-stats-bad, light-dark(#b8232b, #ff8078));
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
  margin-block-end: -0.8em; color: var(--muted); font-size: 0.875em;
}
.status > p:last-child { min-height: 1.4em; }
.state { color: var(--ink); display: flex; gap: 0.6em; align-items: baseline; font-size: 1.15em; font-weight: 600; min-height: calc(var(--lines) * 1.4em); }
.state span { min-inline-size: 0; overflow-wrap: anywhere; }
.dot { flex: none; inline-size: 0.6em; block-size: 0.6em; border-radius: 50%; background: var(--muted); }
.good .dot, .note .dot { background: var(--good); }
.warn .dot { background: var(--warn); border-radius: 0; }
.bad .dot { background: var(--bad); border-radius: 0; }
.warn .state { color: var(--warn); }
.bad .state { color: var(--bad); }
section { border-block-start: 2px solid var(--rule); padding-block-start: 0.6em; min-inline-size: 0; }
header { display: flex; justify-content: space-between; align-items: baseline; gap: 0 1em; }
h2 { white-space: nowrap; }
header p { flex: 1; min-inline-size: 0; text-align: end; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
h2 { font-size: 0.9375em; font-weight: 650; letter-spacing: -0.005em; }
header p, p.note { color: var(--muted); font-size: 0.8125em; }
p.note { min-height: calc(var(--lines) * 1.4em); margin-block-start: 0.7em; overflow-wrap: anywhere; }
/* A reason of any length has its lines from the start and no more until somebody opens it: see fold(). */
.panel { --lines: 2; }
.status, .well { --lines: 3; } /* two troubles at once */
p.note.fold, :is(.live, .aged) .state .fold { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: var(--lines); overflow: hidden; }
.fold[tabindex] { cursor: pointer; }
.panel .fold:focus { -webkit-line-clamp: none; white-space: normal; overflow: visible; }
.fold:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
p.note.bad, header p.bad { color: var(--bad); }

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
.range, .peak { color: var(--muted); font-size: 0.8125em; display: block; min-height: 1.4em; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
svg { display: block; inline-size: 100%; block-size: 2.75em; overflow: visible; }
svg path { fill: none; vector-effect: non-scaling-stroke; stroke-linejoin: round; stroke-linecap: round; }
svg .base { stroke: var(--line); stroke-width: 1px; }
svg .area { fill: var(--accent); fill-opacity: 0.08; }
svg .band { fill: var(--accent); fill-opacity: 0.2; }
svg .curve { stroke: var(--accent); stroke-width: 1.5px; }
svg .tip { stroke: var(--accent); stroke-width: 5px; }
svg .cursor { stroke: var(--muted); stroke-width: 1px; }
svg .bars { fill: var(--accent); }
.aged svg .curve, .aged svg .tip { stroke: var(--muted); }
.aged svg .area, .aged svg .band, .aged svg .bars { fill: var(--muted); }

.rows { margin-block-start: 0.5em; }
.rows > div { display: grid; align-items: center; padding-block: 0.36em; border-block-end: 1px solid var(--line); gap: 0 1em; }
.rows > div:last-child { border-block-end: 0; }
.rates > div { grid-template-columns: minmax(0, 1.1fr) minmax(0, 1.2fr) minmax(0, 1.8fr); }
.rates .number { white-space: nowrap; }
.rates svg { block-size: 2.35em; }
.rates .number { font-size: 1.375em; font-weight: 600; letter-spacing: -0.02em; line-height: 1.2; }
.rates .unknown .number { font-size: 0.9375em; font-weight: 400; letter-spacing: 0; line-height: 1.76; block-size: auto; }
.rates .long .number { font-size: 1em; line-height: 1.65; } /* as high as a short one */
.rates dd { min-inline-size: 0; }
.rates dd:last-child { display: grid; }
.totals > div { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); }
.active > div { grid-template-columns: minmax(0, 0.9fr) minmax(0, 1fr) minmax(0, 1.4fr) minmax(0, 0.6fr); }
.health > div { grid-template-columns: minmax(0, 1.1fr) minmax(0, 1.5fr) minmax(5.2em, 0.9fr); align-items: baseline; }
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
.aged .word.good { color: var(--muted); }

table { inline-size: 100%; border-collapse: collapse; margin-block-start: 0.5em; table-layout: fixed; }
th, td { padding: 0.24em 0; border-block-end: 1px solid var(--line); font-weight: 400; text-align: start; vertical-align: baseline; }
tbody tr:last-child > * { border-block-end: 0; }
th:not(:first-child), td { text-align: end; inline-size: 5.9em; }
th { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
thead th { color: var(--muted); font-size: 0.8125em; }
tbody th { color: var(--muted); white-space: normal; }
td { color: var(--ink); font-weight: 600; white-space: nowrap; }
td.none { color: var(--muted); font-weight: 400; }
tr.alarm td:not(.none), tr.alarm.some th { color: var(--bad); }
.aged td { color: var(--muted); }
.observed > :not(.status, .sources, .well) { display: none; } /* what a server with connections tells */
.observed .health > :has([data-health=uptime], [data-health=live], [data-health=cluster], [data-health=checked]) { display: none; }
.panel:not(.observed) > .sources { display: none; }
.sources article { padding-block: 0.8em; border-block-end: 1px solid var(--line); }
.sources article:last-child { border-block-end: 0; }
.sources header { flex-wrap: wrap; }
.sources header p { flex: 1 0 11em; } /* "down" and the longest time take the same place */
.sources h3 { font-size: 1em; font-weight: 650; overflow-wrap: anywhere; min-inline-size: 0; }
.sources h3 span { color: var(--muted); font-weight: 400; }
.sources dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(8em, 1fr)); gap: 0.8em 1em; margin-block-start: 0.6em; }
.sources dl > div { display: flex; flex-direction: column; justify-content: space-between; }
.sources dd { font-size: 1.375em; font-weight: 600; letter-spacing: -0.02em; line-height: 1.3; }
.sources .unknown dd { font-size: 0.9375em; font-weight: 400; letter-spacing: 0; line-height: 1.9; color: var(--muted); }
.sources .long dd { font-size: 1em; line-height: 1.79; } /* as high as a short one; up to ten digits */
.aged .sources dd { color: var(--muted); }

svg { touch-action: pan-y; }
.now, .days { position: relative; }
.moment {
  position: absolute; inset-block-start: 0.85em; inset-inline-start: 4em; inline-size: 7em; block-size: 1em; margin: 0;
  font: inherit; opacity: 0; pointer-events: none; appearance: none; background: none; direction: ltr; /* as the lines */
}
.moment::-webkit-slider-runnable-track { block-size: 0.25em; border-radius: 0.125em; background: var(--muted); }
.moment::-moz-range-track { block-size: 0.25em; border-radius: 0.125em; background: var(--muted); }
.moment::-webkit-slider-thumb {
  appearance: none; inline-size: 1em; block-size: 1em; margin-block-start: -0.375em; border-radius: 50%; background: var(--accent);
}
.moment::-moz-range-thumb { inline-size: 1em; block-size: 1em; border: 0; border-radius: 50%; background: var(--accent); }
.moment:focus-visible { opacity: 1; outline: max(2px, 0.125em) solid var(--accent); outline-offset: 0.125em; }

.days .moment { inset-block-start: 3em; inset-inline-start: auto; inset-inline-end: 0; }
.days dl { margin-block-start: 0.5em; display: grid; gap: 0.9em; }
.days dl > div { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 0.3em 1em; align-items: baseline; }
.days .range { text-align: end; }
.days .picture { grid-column: 1 / -1; }
.days.none :is(.buttons, dl, input) { display: none; }
.days svg { block-size: 4.6em; }
.days svg .chosen { fill: var(--ink); }
.buttons { display: flex; gap: 0.4em; }
button {
  font: inherit; font-size: 0.8125em; color: var(--muted); background: none; border: 1px solid var(--line); border-radius: 0.35em;
  padding: 0 0.6em; min-block-size: 24px; cursor: pointer; white-space: nowrap;
}
button:hover { border-color: currentColor; }
button[aria-pressed=true] { color: var(--ink); border-color: var(--ink); }
button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }

/* A text keeps its own direction on a page that is read from right to left, and stands where the page begins. */
:host(:dir(rtl)) :is(p, dt, dd, th, td, h2, button, [role=status], .number, .range, .peak) { unicode-bidi: plaintext; text-align: right; }
:host(:dir(rtl)) :is(header p, td, th:not(:first-child), .value, .share, .age, .status > p:last-child, .days .range) { text-align: left; }

@container (max-width: 27.99rem) { /* three figures of six digits beside a reason */
  td { font-size: 0.8125em; }
  th:not(:first-child), td { inline-size: 4.9em; }
  .active > div { grid-template-columns: minmax(0, 0.9fr) minmax(0, 0.6fr) minmax(0, 1.7fr) minmax(0, 0.7fr); }
}
@container (max-width: 43.99rem) {
  .rates > div { grid-template-columns: minmax(0, 1fr) minmax(0, 1.25fr) minmax(0, 1.5fr); gap: 0 0.6em; }
  .rates .number { font-size: 1.25em; line-height: 1.32; }
  .figures > .six:not(:first-child) .number { font-size: 1.875em; line-height: 1.38; block-size: 1.38em; }
}
@container (max-width: 19.49rem) { /* 320 pixels: also a window of 1,280 at four times the size (WCAG 1.4.10) */
  .rates > div { grid-template-columns: minmax(0, 1fr) minmax(0, 1.2fr); }
  .rates dt, .word { grid-column: 1 / -1; }
  .health > div { grid-template-columns: minmax(0, 1fr) auto; }
  .word { grid-row: 2; }
  .days dl > div { grid-template-columns: minmax(0, 1fr); }
  .days .range { text-align: start; }
}
@container (min-width: 44rem) {
  .now .moment { inline-size: 16em; }
  .status { grid-template-columns: minmax(0, 1fr) 14em; }
  .status { --lines: 2; }
  .sources { --lines: 1; }
  .status p:last-child { text-align: end; }
  .panel { grid-template-columns: repeat(6, minmax(0, 1fr)); }
  .panel > * { grid-column: span 3; }
  .status, .now, .days, .sources { grid-column: 1 / -1; }
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
@container (min-width: 60rem) and (max-width: 71.99rem) {
  .figures > .six:not(:first-child) .number { font-size: 1.875em; line-height: 2.484; block-size: 1.973em; }
}
@container (min-width: 68rem) {
  .panel > :not(.status, .now, .sources) { grid-column: span 2; }
  .status { margin-block-end: -1.4em; } /* its second line, which is mostly empty, is the gap */
}
@container (min-width: 104rem) { /* a wall screen, which nobody scrolls: two rows below the figures */
  .panel { grid-template-columns: repeat(5, minmax(0, 1fr)); font-size: max(0.9375rem, 0.73cqi); gap: 1.2em 2em; }
  .panel > :not(.status, .now, .sources) { grid-column: auto; }
  .panel > .well { grid-column: span 2; }
  .status { --lines: 1; margin-block-end: -0.8em; }
  .well { --lines: 2; }
  th:not(:first-child) { inline-size: 5.3em; } /* the narrowest columns: six digits and the longest reason */
  td { font-size: 0.875em; }
  .rates .number { font-size: 1.25em; line-height: 1.32; }
}
@media (forced-colors: active) {
  .dot, .bar > div { forced-color-adjust: none; background: CanvasText; }
  svg .curve, svg .tip { stroke: CanvasText; }
  button[aria-pressed=true] { forced-color-adjust: none; color: HighlightText; background: Highlight; border-color: Highlight; }
}
`;

const SVG = 'http://www.w3.org/2000/svg';

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
  if (node.textContent === text) return;
  node.textContent = text;
  if (node.classList.contains('fold')) fold(node);
}

/**
 * For a text that its style keeps within some lines, so that none of any length moves what is below: where it is longer
 * than they are, it can be chosen by a click or the keyboard, and is whole while it is. To be called when it changes.
 */
export function fold(node) {
  if (node.matches(':focus')) return; // it is open, and would seem to fit
  const cut = node.scrollHeight > node.clientHeight + 1 || node.scrollWidth > node.clientWidth + 1;
  if (cut) node.tabIndex = 0;
  else node.removeAttribute('tabindex');
  node.title = cut ? node.textContent : '';
}

/** Letters and digits that are read from right to left, and what turns the reading around. */
const TURNED = /[\u0590-\u08ff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufb1d-\ufdff\ufe70-\ufeff]|[\ud802\ud803\ud83a\ud83b]/;

/** A name, a number or a time inside a text that may be in another language: it turns nothing around but itself. */
export const isolated = (value) => (TURNED.test(value) ? `\u2068${value}\u2069` : value);

/** A text with its {words in braces} filled in. */
const fill = (text, values = {}) => String(text).replace(/\{(\w+)\}/g, (all, name) => isolated(values[name] ?? all));

/** A number, or null for whatever else the JSON may hold. */
const known = (value) => (typeof value === 'number' && Number.isFinite(value) ? value : null);

/** Seconds between two polls as somebody gave them, within what a server and a timer bear. */
const pace = (seconds) => (Number.isFinite(seconds) ? Math.min(Math.max(seconds, SHORTEST_REFRESH), LONGEST_REFRESH) : DEFAULT_REFRESH);

/** A list, or an empty one for whatever else the JSON may hold. */
const list = (value) => (Array.isArray(value) ? value : []);

/** Unix seconds of an RFC 3339 time, null when it is none. */
function moment(text) {
  const at = typeof text === 'string' ? Date.parse(text) : NaN;
  return Number.isNaN(at) ? null : at / 1000;
}

const clocks = { steady: performance.now(), wall: Date.now(), asleep: 0 };

/** Milliseconds, those included in which the machine slept: there performance.now() stands still on Linux and macOS. */
function passed() {
  const [steady, wall] = [performance.now(), Date.now()];
  const ahead = wall - clocks.wall - (steady - clocks.steady);
  if (ahead > 1000) clocks.asleep += ahead; // less is a clock that is put right
  Object.assign(clocks, { steady, wall });
  return steady + clocks.asleep;
}

/** "The database is down." of whatever reason a server gave. */
export function sentence(reason) {
  const text = `${String(reason).replace(/\.$/, '')}.`;
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** What the JSON of a response holds; null for what is none, and for what a refusal does not say to its end. */
async function json(response) {
  try {
    return await response.json();
  } catch (error) {
    if (error instanceof SyntaxError || !response.ok) return null;
    throw error;
  }
}

/** What the JSON of a refusal says: ours is a problem document, and a proxy's or a gateway's may be of any shape. */
export const reasonIn = (body, otherwise) => [body?.detail, body?.title].find((text) => text && typeof text === 'string') ?? otherwise;

/** How numbers and times are written in a language; English where the browser does not know it. */
function formats(lang) {
  const time = { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' };
  const day = { day: 'numeric', month: 'short' };
  try {
    return {
      lang,
      whole: new Intl.NumberFormat(lang),
      decimals: [0, 1, 2].map((n) => new Intl.NumberFormat(lang, { minimumFractionDigits: n, maximumFractionDigits: n })),
      percent: new Intl.NumberFormat(lang, { style: 'percent' }),
      exact: new Intl.NumberFormat(lang, { style: 'percent', maximumFractionDigits: 2 }),
      clock: new Intl.DateTimeFormat(lang, { ...time, second: '2-digit' }),
      minute: new Intl.DateTimeFormat(lang, time),
      dayAndTime: new Intl.DateTimeFormat(lang, { ...day, ...time }),
      day: new Intl.DateTimeFormat(lang, { ...day, timeZone: 'UTC' }),
      plural: new Intl.PluralRules(lang),
    };
  } catch {
    return { ...formats('en'), lang };
  }
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

// --- pictures: from nought up, over the whole width ---------------------------------------------------------------

class Picture {
  #paths = {};

  /** Paths of these names; `point` is told at which share (0…1) of the width a pointer is, null when it leaves. */
  constructor(names, point) {
    this.svg = document.createElementNS(SVG, 'svg');
    this.svg.setAttribute('viewBox', '0 0 100 100');
    this.svg.setAttribute('preserveAspectRatio', 'none');
    this.svg.setAttribute('aria-hidden', 'true'); // what it shows is said in words beside it
    for (const name of ['base', ...names]) {
      this.#paths[name] = document.createElementNS(SVG, 'path');
      this.#paths[name].setAttribute('class', name);
      this.svg.append(this.#paths[name]);
    }
    this.set('base', 'M0 100H100');
    this.svg.addEventListener('pointermove', (event) => point(share(event, this.svg)));
    this.svg.addEventListener('pointerleave', () => point(null));
  }

  set(name, path) {
    if (this.#paths[name].getAttribute('d') !== path) this.#paths[name].setAttribute('d', path);
  }
}

/** One line over the window. */
class Chart extends Picture {
  constructor(point) {
    super(['area', 'band', 'curve', 'tip', 'cursor'], point);
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
    for (const [name, path] of Object.entries(paths)) this.set(name, path);
  }

  /** A line at a share (0…1) of the width, none for null. */
  point(share) {
    this.set('cursor', share === null ? '' : `M${(share * 100).toFixed(2)} 0V100`);
  }
}

/** The bars of days; a day that is not known is a gap. */
class Bars extends Picture {
  constructor(point) {
    super(['bars', 'chosen'], point);
  }

  /** Draw [value or null…]; the bar at `chosen` stands out. */
  draw(values, chosen) {
    const peak = Math.max(1, ...values.filter((value) => value !== null));
    const width = 100 / Math.max(1, values.length);
    const bar = (value, i) =>
      value === null ? '' : `M${(i * width + width * 0.12).toFixed(3)} 100V${(100 - (value / peak) * 96).toFixed(2)}h${(width * 0.76).toFixed(3)}V100Z`;
    this.set('bars', values.map((value, i) => (i === chosen ? '' : bar(value, i))).join(''));
    this.set('chosen', chosen === null ? '' : bar(values[chosen] ?? null, chosen));
  }
}

// --- asking ------------------------------------------------------------------------------------------------------

/** Why there are no figures. `kind` is a key of LABELS, `details` are its words in braces. */
export class StatsFailure extends Error {
  constructor(kind, details = {}) {
    super(fill(LABELS[kind], details));
    this.kind = kind;
    this.details = details;
    this.status = details.status ?? null;
  }
}

/**
 * Asks one server for its figures until it is stopped: one request at a time, less often while it does not answer, not
 * at all while nobody sees the page. `onChange(what)` is called with 'update', 'history', 'days', 'lost' or 'denied'.
 *
 * `token` may be a function that returns one (or a promise of one): it is called when a token is needed and again when
 * one was refused, so that no token has to stand in a document or live for long.
 */
export class StatsClient {
  status = 'connecting'; // then 'live', 'lost' or 'denied'
  stats = null;
  history = null;
  days = null; // null: not asked yet; false: this server has none
  failure = null; // the StatsFailure of 'lost' and 'denied'
  detailFailures = { history: null, days: null }; // why the latest look at them failed while the server was there
  daysRead = null; // the server's clock when the days were read, Unix seconds
  answered = null; // passed() at the latest answer
  serverTime = null; // the server's clock then, Unix seconds
  restarted = false; // the server is another process than it was at the answer before

  #refresh = DEFAULT_REFRESH;
  #run = null; // the AbortController of the polling that is going on
  #wake = null; // ends the pause between two polls
  #bearer = null; // what a token function returned
  #due = { history: 0, days: 0 }; // passed() from which they are asked again
  #forbidden = false; // the page's policy forbade the request under way

  constructor(options = {}) {
    Object.assign(this, { src: DEFAULT_SRC, token: null, details: true, onChange() {} }, options);
  }

  /** Seconds between two polls. */
  get refresh() { return this.#refresh; }
  set refresh(seconds) { this.#refresh = pace(seconds); }

  start() {
    this.stop();
    this.#run = new AbortController();
    document.addEventListener('visibilitychange', this.#onVisible);
    document.addEventListener('securitypolicyviolation', this.#onViolation);
    void this.#poll(this.#run.signal);
  }

  stop() {
    if (this.#run === null) return;
    this.#run.abort();
    this.#run = null;
    document.removeEventListener('visibilitychange', this.#onVisible);
    document.removeEventListener('securitypolicyviolation', this.#onViolation);
  }

  /** Know from the start what another knew of the same server. */
  follow({ stats, history, days, daysRead, answered, serverTime }) {
    Object.assign(this, { stats, history, days, daysRead, answered, serverTime });
  }

  /** Ask at once instead of at the end of the pause. */
  wake() {
    this.#wake?.();
  }

  #onVisible = () => {
    if (!document.hidden) this.wake();
  };

  #onViolation = (event) => {
    if (event.effectiveDirective === 'connect-src') this.#forbidden = true;
  };

  async #poll(signal) {
    let failures = 0;
    while (!signal.aborted) {
      try {
        await this.#ask(signal);
        failures = 0;
      } catch (error) {
        if (signal.aborted) return;
        failures += 1;
        this.#due.history = 0; // whoever comes back may be another process with another past
        if (this.detailFailures.days !== null) this.#due.days = 0;
        this.failure = error instanceof StatsFailure ? error : new StatsFailure('in_trouble', { reason: error.message });
        this.status = this.failure.kind === 'denied' ? 'denied' : 'lost';
        this.onChange(this.status);
        if (this.status === 'denied') return;
      }
      if (failures === 0 && this.details) {
        await this.#askHistory(signal);
        await this.#askDays(signal);
      }
      await this.#pause(failures === 0 ? 0 : failures, signal);
    }
  }

  async #ask(signal) {
    const [stats, at] = await this.#get('', signal);
    if (signal.aborted) return;
    const started = moment(stats.started_at);
    // Later than the answer before, or a balancer would make another node's start a restart.
    this.restarted = started !== null && this.serverTime !== null && started > Math.floor(this.serverTime) + 1 ? true : this.restarted;
    this.stats = stats;
    this.answered = passed();
    this.serverTime = Math.max(at ?? 0, moment(stats.as_of) ?? 0) || Date.now() / 1000; // Date has whole seconds only
    this.status = 'live';
    this.failure = null;
    this.onChange('update');
  }

  /** When its next sample is due: the figures are shown already, and the server is there, so its lines may be late. */
  async #askHistory(signal) {
    if (passed() < this.#due.history) return;
    try {
      const [history] = await this.#get('/history', signal);
      if (signal.aborted) return;
      this.history = history;
      this.detailFailures.history = null;
      const latest = moment(history.as_of);
      const wait = latest === null ? 1 : latest + (known(history.step) ?? 10) + 0.25 - this.serverTime;
      this.#due.history = passed() + Math.min(Math.max(wait, 1), 60) * 1000;
      this.onChange('history');
    } catch (error) {
      if (signal.aborted) return;
      this.#due.history = passed() + (error.status === null ? 2000 : 30000);
      this.detailFailures.history = error;
      this.onChange('history');
    }
  }

  async #askDays(signal) {
    if (passed() < this.#due.days) return;
    if (this.stats.started_at === undefined) { // an older server: asking it would only fill the console with 404
      this.days = false;
      return;
    }
    this.#due.days = passed() + DAYS_EVERY * 1000;
    try {
      const [days] = await this.#get('/days', signal, `days=${Math.max(...DAYS)}`);
      if (signal.aborted) return;
      this.days = days.days === null ? false : days; // null: an embedded server, which has no record
      this.daysRead = this.serverTime;
      this.detailFailures.days = null;
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 404) this.days = false;
      else {
        this.#due.days = passed() + 30000;
        this.detailFailures.days = error;
      }
    }
    this.onChange('days');
  }

  /** The days as CSV, as the server writes it. */
  async csv(days) {
    const read = (response) => response.text();
    const [response, text] = await this.#fetch('/days', AbortSignal.timeout(30000), `days=${days}`, 'text/csv', read);
    if (!response.ok) throw new StatsFailure('in_trouble', { reason: `answer ${response.status}`, status: response.status });
    return text;
  }

  /** The JSON at `src` + path and the server's clock (Unix seconds; null when its Date may not be read). */
  async #get(path, signal, query = '') {
    let [response, body] = await this.#fetch(path, signal, query);
    if (response.status === 401 && typeof this.token === 'function' && this.#bearer !== null) {
      this.#bearer = null; // it may have run out: a new one, once
      [response, body] = await this.#fetch(path, signal, query);
    }
    const status = response.status;
    const details = { status, url: response.url, reason: reasonIn(body, `answer ${status}`).replace(/\.$/, '') };
    if (status === 401 || status === 403) {
      this.#bearer = null;
      throw new StatsFailure('denied', details);
    }
    const object = body !== null && typeof body === 'object';
    if (status === 404) throw new StatsFailure('not_found', details);
    if (!response.ok) throw new StatsFailure('in_trouble', details);
    if (!object) throw new StatsFailure('not_json', details);
    const date = Date.parse(response.headers.get('Date') ?? '');
    return [body, Number.isNaN(date) ? null : date / 1000];
  }

  /** The response, and what `read` makes of it: an answer that is cut off is none. */
  async #fetch(path, signal, query, accept = 'application/json', read = json) {
    const url = new URL(this.src, document.baseURI);
    url.pathname = url.pathname.replace(/\/$/, '') + path;
    if (query) url.search = query;
    const seconds = Math.max(TIME_OUT, 2 * this.refresh);
    const token = await this.#token(seconds);
    const limit = AbortSignal.timeout(seconds * 1000);
    this.#forbidden = false;
    try {
      const response = await fetch(url, {
        headers: token ? { Accept: accept, Authorization: `Bearer ${token}` } : { Accept: accept },
        credentials: token ? 'omit' : 'same-origin',
        cache: 'no-store',
        signal: AbortSignal.any([signal, limit]),
      });
      return [response, await read(response)];
    } catch (error) {
      if (signal.aborted) throw error;
      if (limit.aborted) throw new StatsFailure('timed_out', { url: url.href, seconds });
      await new Promise((resolve) => setTimeout(resolve)); // the browser reports a violation in a task of its own
      throw new StatsFailure(this.#obstacle(url), { url: url.href, origin: url.origin, page: location.origin });
    }
  }

  /** A browser says of a failed request only that it failed: what can be told from the addresses is told. */
  #obstacle(url) {
    if (this.#forbidden) return 'policy';
    if (url.origin === location.origin) return 'unreachable';
    const local = ['localhost', '127.0.0.1', '[::1]'].includes(url.hostname);
    return location.protocol === 'https:' && url.protocol === 'http:' && !local ? 'mixed' : 'blocked';
  }

  async #token(seconds) {
    if (typeof this.token !== 'function') return this.token;
    if (this.#bearer !== null) return this.#bearer;
    let timer = 0;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`none within ${seconds} s`)), seconds * 1000);
    });
    try {
      this.#bearer = String((await Promise.race([this.token(), late])) ?? '').trim() || null;
    } catch (error) {
      throw new StatsFailure('in_trouble', { reason: `no token: ${error.message}` });
    } finally {
      clearTimeout(timer);
    }
    return this.#bearer;
  }

  /** Wait; longer while nobody sees the page, and no longer when it is seen again or `refresh` changes. */
  #pause(failures, signal) {
    const seconds = failures === 0 ? this.refresh : Math.max(this.refresh, Math.min(LONGEST_PAUSE, failures));
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
      timer = setTimeout(elapsed, seconds * 1000);
    });
  }
}

// --- the element -------------------------------------------------------------------------------------------------

let sheet = null; // made with the first element: there is none to make where there is no browser

function theSheet() {
  if (sheet === null) {
    sheet = new CSSStyleSheet();
    sheet.replaceSync(CSS);
  }
  return sheet;
}

export class MessagingStats extends (globalThis.HTMLElement ?? class {}) {
  static observedAttributes = ['src', 'token', 'refresh', 'lang'];

  #token = null; // set as a property it stays out of the document
  #labels = LABELS;
  #own = false; // are the labels somebody's own?
  #format = formats('en');
  #client = null;
  #nodes = {};
  #sources = []; // the nodes of each observed database
  #texts = []; // [node, key, attribute or null]: what never changes but with the labels
  #charts = [];
  #bars = [];
  #shown = DAYS[0]; // days in the picture
  #first = new Map(); // code of a trouble: when it was first seen, null when it was there before
  #watched = false; // was there an answer before this one, so that what is new began in between?
  #said = null;
  #pointed = null; // where on the charts the pointer is: 0…1 of the width
  #chosen = null; // the bar that is pointed at, counted from the oldest
  #ticker = 0;
  #widths = null; // a text that fits may no longer do so, and the other way

  constructor() {
    super();
    const root = this.attachShadow({ mode: 'open' });
    root.adoptedStyleSheets = [theSheet()];
    root.append(this.#build());
    this.#widths = new ResizeObserver(() => root.querySelectorAll('.fold').forEach(fold));
  }

  /** The address of the figures; their history lies at `/history` below it, their days at `/days`. */
  get src() { return this.getAttribute('src') ?? DEFAULT_SRC; }
  set src(value) { this.setAttribute('src', value); }

  /** A token of role admin, or a function that gets one; null: the cookie of the admin page. */
  get token() { return this.#token ?? this.getAttribute('token'); }
  set token(value) {
    if ((value ?? null) === this.#token) return;
    this.#token = value ?? null;
    this.#restart();
  }

  /** Seconds between two polls. */
  get refresh() {
    return pace(Number.parseFloat(this.getAttribute('refresh') ?? ''));
  }
  set refresh(value) { this.setAttribute('refresh', String(value)); }

  /** Texts in place of the English ones: an object with some or all keys of LABELS. */
  get labels() { return this.#labels; }
  set labels(value) {
    this.#own = value !== null && value !== undefined;
    this.#labels = { ...LABELS, ...value };
    this.#relabel();
    this.#render();
  }

  connectedCallback() {
    for (const name of ['src', 'token', 'refresh', 'labels']) {
      if (!Object.hasOwn(this, name)) continue;
      const given = this[name]; // set before this module was there, hence past the setter
      delete this[name];
      this[name] = given;
    }
    this.#ticker = setInterval(() => this.#renderAges(), 1000);
    this.#widths.observe(this);
    this.#restart();
  }

  disconnectedCallback() {
    clearInterval(this.#ticker);
    this.#widths.disconnect();
    this.#client?.stop(); // what it knows is shown when the element comes back
  }

  attributeChangedCallback(name, before, after) {
    if (before === after) return;
    if (name === 'refresh' && this.#client) {
      this.#client.refresh = this.refresh;
      this.#client.wake();
    } else if (name === 'lang') this.#render();
    else this.#restart();
  }

  #restart() {
    const before = this.#client;
    before?.stop();
    if (!this.isConnected) return;
    const { src, token, refresh } = this;
    this.#client = new StatsClient({ src, token, refresh, onChange: (what) => this.#changed(what) });
    if (before?.src === src) this.#client.follow(before);
    else if (before !== null) this.#rebuild(); // figures of one server are not those of another
    this.#first.clear();
    this.#watched = false;
    this.#render();
    this.#client.start();
  }

  #changed(what) {
    this.#render();
    this.#watched = this.#client?.status === 'live';
    if (what === 'update') this.#emit('messaging-stats-update', this.#client.stats);
    const { failure } = this.#client ?? {};
    if (what === 'denied' && failure) {
      this.#emit('messaging-stats-denied', { status: failure.status, reason: failure.details.reason });
    }
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail, bubbles: true, composed: true }));
  }

  /** The language of the page around, also through the shadow roots that the element may stand in. */
  #language() {
    for (let node = this; node; node = node.getRootNode().host) {
      const lang = node.closest('[lang]')?.getAttribute('lang');
      if (lang) return lang;
    }
    return 'en';
  }

  #say(key, values) {
    return fill(this.#labels[key], values);
  }

  /** "12:03:10 · 1,240": in the order in which the labels are read, also where neither has a letter that tells it. */
  #beside(...parts) {
    const mark = TURNED.test(this.#labels.now) ? '\u200f' : '';
    return mark + parts.filter(Boolean).map(isolated).join(' · ');
  }

  // --- building: once ----------------------------------------------------------------------------------------------

  /** The node with a text that follows the labels; with `attribute`, the text is that attribute's. */
  #text(node, key, attribute = null) {
    this.#texts.push([node, key, attribute]);
    return node;
  }

  #relabel() {
    for (const [node, key, attribute] of this.#texts) {
      const text = this.#say(key, { n: node.dataset.n ?? '', seconds: known(this.#client?.history?.step) ?? 10 });
      if (attribute === null) write(node, text);
      else node.setAttribute(attribute, text);
    }
    delete this.#nodes.sources.dataset.names; // they are built anew
  }

  #rebuild() {
    this.#nodes = {};
    this.#sources = [];
    this.#texts = [];
    this.#charts = [];
    this.#bars = [];
    this.#shown = DAYS[0];
    this.#pointed = null;
    this.#chosen = null;
    this.shadowRoot.replaceChildren(this.#build());
  }

  #build() {
    const n = this.#nodes;
    n.dot = el('span', { class: 'dot', 'aria-hidden': 'true' });
    n.state = el('span', { class: 'fold', role: 'status' }, LABELS.connecting);
    n.updated = el('span', {}, '\u00a0'); // a line of its own height from the start
    n.status = el('div', { class: 'status' }, el('p', { class: 'state' }, n.dot, n.state), el('p', {}, n.updated));
    n.panel = el(
      'div',
      { class: 'panel', lang: 'en' },
      n.status,
      this.#buildSources(),
      this.#buildNow(),
      this.#buildLines('speed', RATES, 'rate'),
      this.#buildLines('quality', QUALITY, 'quality'),
      this.#buildDays(),
      ...Object.keys(REASONS).map((kind) => this.#buildReasons(kind)),
      this.#buildTotals(),
      this.#buildActive(),
      this.#buildHealth(),
    );
    this.#relabel();
    return n.panel;
  }

  #section(key, title, aside, ...content) {
    const heading = this.#text(el('h2', { id: key }), title);
    return el('section', { class: key, 'aria-labelledby': key }, el('header', {}, heading, aside), ...content);
  }

  #term(key, hint = `${key}_hint`) {
    const node = this.#text(el('dt'), key);
    return hint in LABELS ? this.#text(node, hint, 'title') : node;
  }

  #chart(kind, name) {
    const chart = new Chart((at) => this.#point(at));
    const range = el('span', { class: 'range' });
    this.#charts.push({ kind, name, chart, range });
    return [chart.svg, range];
  }

  /** For the keyboard what pointing is for the mouse; seen when focused. */
  #slider(label, max, point) {
    const slider = this.#text(el('input', { class: 'moment', type: 'range', min: 0, max, value: max }), label, 'aria-label');
    slider.addEventListener('input', () => point(slider.valueAsNumber));
    slider.addEventListener('focus', () => point(slider.valueAsNumber));
    slider.addEventListener('blur', () => point(null));
    return slider;
  }

  /** Databases that are observed, one below the other; what else the panel has is of a server with connections. */
  #buildSources() {
    this.#nodes.sources = el('div');
    return this.#section('sources', 'sources', el('p', {}, ''), this.#nodes.sources);
  }

  #buildSource() {
    const one = { name: el('bdi'), kind: el('span'), age: el('p', { class: 'age' }), note: el('p', { class: 'note bad fold' }), figures: {} };
    const rows = el('dl');
    for (const name of [...TOTALS, ...ACTIVE]) {
      const term = ACTIVE.includes(name) ? el('dt', {}, `${this.#say('people')}, ${this.#say(name)}`) : el('dt', {}, this.#say(name));
      one.figures[name] = el('dd', { 'data-figure': name }, '–');
      rows.append(el('div', {}, term, one.figures[name]));
    }
    one.node = el('article', {}, el('header', {}, el('h3', {}, one.name, ' ', one.kind), one.age), rows, one.note);
    return one;
  }

  #buildNow() {
    const n = this.#nodes;
    n.scope = el('p', { class: 'fold' }, '');
    n.moment = this.#slider('moment', BINS, (value) => this.#point(value === null ? null : value / BINS));
    const rows = el('dl', { class: 'figures' });
    for (const name of FIGURES) {
      n[name] = el('span', { class: 'number' }, '–');
      n[`peak_${name}`] = this.#text(el('span', { class: 'peak', 'data-peak': name }), 'peak_hint', 'title');
      const value = el('dd', { 'data-figure': name }, n[name], ...this.#chart('figures', name), n[`peak_${name}`]);
      rows.append(el('div', {}, this.#term(name), value));
    }
    return this.#section('now', 'now', n.scope, n.moment, rows);
  }

  #buildLines(key, names, attribute) {
    const n = this.#nodes;
    n[`${key}Scope`] = el('p', {}, '');
    const rows = el('dl', { class: 'rows rates' });
    for (const name of names) {
      n[`${key}_${name}`] = el('span', { class: 'number' }, '–');
      const value = el('dd', { [`data-${attribute}`]: name }, n[`${key}_${name}`]);
      rows.append(el('div', {}, this.#term(name), value, el('dd', {}, ...this.#chart(key, name))));
    }
    return this.#section(key, key, n[`${key}Scope`], rows);
  }

  #buildDays() {
    const n = this.#nodes;
    n.dayButtons = DAYS.map((days) => {
      const button = this.#text(el('button', { type: 'button', 'data-n': days, 'aria-pressed': days === this.#shown }), 'show_days');
      button.addEventListener('click', () => {
        this.#shown = days;
        n.day.max = days - 1;
        n.day.value = days - 1;
        this.#renderDays();
      });
      return button;
    });
    const download = this.#text(this.#text(el('button', { type: 'button', class: 'csv' }), 'download'), 'download_hint', 'title');
    download.addEventListener('click', () => void this.#download());
    n.day = this.#slider('day', DAYS[0] - 1, (value) => this.#choose(value));
    const rows = el('dl');
    for (const name of PER_DAY) {
      const bars = new Bars((at) => this.#choose(at === null ? null : Math.floor(at * this.#shown * 0.9999)));
      const range = el('dd', { class: 'range', 'data-days': name }, '\u00a0');
      this.#bars.push({ name, bars, range });
      rows.append(el('div', {}, this.#term(`day_${name}`), range, el('dd', { class: 'picture' }, bars.svg)));
    }
    n.daysNote = el('p', { class: 'note fold' }, LABELS.days_note);
    return this.#section('days', 'days', el('div', { class: 'buttons' }, ...n.dayButtons, download), n.day, rows, n.daysNote);
  }

  #buildReasons(kind) {
    const n = this.#nodes;
    n[`${kind}Scope`] = this.#text(el('p', {}), 'this_node');
    const spans = kind === 'closed' ? ['last_minute', 'last_hour'] : ['last_minute', 'last_hour', 'since_start'];
    const body = el('tbody');
    for (const reason of REASONS[kind]) {
      const cells = spans.map((span) => {
        const cell = el('td', { [`data-${kind}`]: `${reason}.${span}` }, '–');
        n[`${kind}_${reason}_${span}`] = cell;
        return cell;
      });
      const row = el('tr', {}, this.#text(el('th', { scope: 'row' }), `${kind}_${reason}`), ...cells);
      if (ALARMING.includes(reason)) row.classList.add('alarm');
      body.append(row);
    }
    const heads = spans.map((span) => this.#text(el('th', { scope: 'col' }), span));
    n[`${kind}Hour`] = heads[1];
    if (heads[2]) this.#text(heads[2], 'since_start_hint', 'title');
    const head = el('tr', {}, this.#text(el('th', { scope: 'col' }), 'reason'), ...heads);
    const table = el('table', {}, el('thead', {}, head), body);
    return this.#section(kind, kind, n[`${kind}Scope`], table);
  }

  #buildTotals() {
    const n = this.#nodes;
    n.totalsAge = el('p', { class: 'age' }, '');
    n.totalsNote = el('p', { class: 'note fold' });
    const rows = el('dl', { class: 'rows totals' });
    for (const name of TOTALS) {
      n[name] = el('dd', { class: 'value', 'data-figure': name }, '–');
      rows.append(el('div', {}, this.#text(el('dt'), name), n[name]));
    }
    return this.#section('sums', 'stored', n.totalsAge, rows, n.totalsNote);
  }

  #buildActive() {
    const n = this.#nodes;
    n.activeAge = el('p', { class: 'age' }, '');
    const note = this.#text(el('p', { class: 'note' }), 'people_note');
    const rows = el('dl', { class: 'rows active' });
    for (const window of ACTIVE) {
      n[`bar_${window}`] = el('div');
      n[`active_${window}`] = el('dd', { class: 'value', 'data-active': window }, '–');
      n[`share_${window}`] = el('dd', { class: 'share' }, '');
      const bar = el('dd', { class: 'bar', 'aria-hidden': 'true' }, n[`bar_${window}`]);
      rows.append(el('div', {}, this.#text(el('dt'), window), bar, n[`active_${window}`], n[`share_${window}`]));
    }
    return this.#section('people', 'people', n.activeAge, rows, note);
  }

  #buildHealth() {
    const n = this.#nodes;
    const rows = el('dl', { class: 'rows health' });
    for (const key of HEALTH) {
      n[`${key}Word`] = el('dd', { class: 'word', 'data-health': key }, '–');
      n[`${key}Age`] = el('dd', { class: 'age', 'data-age': key }, '');
      rows.append(el('div', {}, this.#text(el('dt'), key), n[`${key}Word`], n[`${key}Age`]));
    }
    n.healthNote = el('p', { class: 'note bad fold' });
    return this.#section('well', 'health', this.#text(el('p'), 'ages'), rows, n.healthNote);
  }

  // --- how things are said -------------------------------------------------------------------------------------------

  #count(value) {
    return value === null ? this.#say('unknown') : this.#format.whole.format(value);
  }

  /** 0.04, 1.2, 150: as many decimals as the size of a rate deserves. */
  #rate(value) {
    if (value === null) return this.#say('unknown');
    if (value === 0 || value >= 100) return this.#format.decimals[0].format(value);
    return this.#format.decimals[value < 1 ? 2 : 1].format(value);
  }

  /** 99.98 %: rounded down, because only what is whole is a hundred. */
  #share(value) {
    return value === null ? this.#say('unknown') : this.#format.exact.format(Math.floor(value * 10000 + 1e-6) / 10000);
  }

  /** 7 s, 12 min, 5 h, 3 d: an age that a person reads. */
  #age(seconds) {
    if (seconds === null) return '';
    const s = Math.max(0, Math.floor(seconds));
    const say = (key, divisor) => this.#say(key, { n: this.#format.whole.format(Math.floor(s / divisor)) });
    if (s < 120) return say('seconds', 1);
    if (s < 7200) return say('minutes', 60);
    if (s < 172800) return say('hours', 3600);
    return say('days_old', 86400);
  }

  /** A time of today to the second, an earlier one with its day. */
  #time(at) {
    const today = new Date((this.#client?.serverTime ?? at) * 1000).toDateString() === new Date(at * 1000).toDateString();
    return (today ? this.#format.clock : this.#format.dayAndTime).format(at * 1000);
  }

  /** Why the hour or the days could not be read: what the server says; without an answer, the first line says why. */
  #reason({ kind, details, message }) {
    if (details === undefined) return message;
    if (kind === 'not_json' || kind === 'not_found') return this.#say(kind, details); // it is not the server that answers
    return details.reason ?? this.#say('no_answer');
  }

  #nodesText(count) {
    const key = `nodes_${this.#format.plural.select(count)}`;
    return this.#say(key in this.#labels ? key : 'nodes_other', { n: this.#format.whole.format(count) });
  }

  // --- is anything wrong, and since when -----------------------------------------------------------------------------

  /** What is wrong, the worst first: [{level, code, text}…]; without anything wrong, one that says so. */
  #verdicts() {
    const client = this.#client;
    if (client === null || client.status === 'connecting') return [{ level: 'unknown', code: 'connecting', text: this.#say('connecting') }];
    const found = [];
    const add = (level, code, at, values = {}) => {
      const since = client.failure === null ? moment(client.stats.since?.[code]) : null; // as the server saw it begin
      found.push({ level, code, text: this.#say(code, { since: this.#since(code, since ?? at), ...values }) });
    };
    if (client.failure !== null) {
      this.#addFailure(client, add);
      return found;
    }
    const { stats, history } = client;
    const database = stats.database ?? {};
    if (stats.scope === 'source' || stats.sources) { // databases that are observed: who sends there is not known here
      for (const { name, up, as_of: at, since, error } of list(stats.sources)) {
        if (up === false) add('bad', 'source_down', moment(since ?? at), { name, reason: error ?? this.#say('no_reason') });
      }
      for (const { name, inaccurate_conversations: wrong } of list(stats.sources)) {
        if (known(wrong) > 0) add('warn', 'source_wrong', null, { name, conversations: this.#count(wrong) });
      }
    } else {
      const reason = database.error ? ` ${sentence(database.error)}` : '';
      if (database.up === false) add('bad', 'database_down', moment(database.as_of), { reason });
      else if (database.writable === false) add('bad', 'database_read_only', null, { reason });
    }
    const begun = moment(stats.started_at);
    // Until it is read again after a restart, it tells of the process before.
    if (history !== null && (begun === null || moment(history.as_of) >= begun)) this.#addHistory(history, add);
    if (stats.cluster?.up === false) {
      add('bad', 'cluster_down', moment(stats.cluster.as_of), { reason: this.#liveError(stats) });
    }
    if (Object.values(stats.inaccurate ?? {}).some((count) => known(count) > 0)) add('warn', 'totals_wrong', null);
    for (const code of this.#first.keys()) if (!found.some((one) => one.code === code)) this.#first.delete(code);
    if (found.length > 0) return found.sort((a, b) => (a.level === 'bad' ? 0 : 1) - (b.level === 'bad' ? 0 : 1));
    const started = moment(stats.started_at);
    const young = started !== null && client.serverTime - started < YOUNG;
    if (started === null) add('good', 'all_is_well', null);
    else add(young ? 'note' : 'good', young ? 'restarted' : 'all_is_well_up', null, { time: this.#time(started) });
    return found;
  }

  #addFailure({ failure, answered, serverTime }, add) {
    if (failure.kind === 'denied') add('bad', 'denied', null, failure.details);
    else if (failure.kind === 'in_trouble') add('bad', 'in_trouble', serverTime, failure.details);
    else if (answered === null) add('bad', failure.kind, null, failure.details);
    else add('bad', 'lost', serverTime);
  }

  /** What the last hour says of this minute; since when is told by the line itself. */
  #addHistory(history, add) {
    const step = known(history.step) ?? 10;
    const minute = Math.max(1, Math.round(MINUTE / step));
    const begin = (values, bad) => {
      let first = null;
      for (let i = values.length - 1; i >= 0 && (first === null || first - i <= minute); i -= 1) if (bad(values[i])) first = i;
      return first === null || (first === 0 && values.length > 1) ? null : history.start + first * step;
    };
    const recent = (values) => list(values).slice(-minute).map(known).filter((value) => value !== null);
    const positive = (value) => known(value) > 0;
    if (known(history.closed?.internal_error?.last_minute) > 0) add('bad', 'internal_errors', null);
    const failed = list(history.rates?.sends_failed);
    if (recent(failed).some(positive) && this.#client.stats.database?.up !== false) add('bad', 'sends_failing', begin(failed, positive));
    if (known(history.refused?.connections?.capacity?.last_minute) > 0) add('bad', 'at_capacity', null);
    const shares = list(history.delivered_in_time);
    const late = recent(shares);
    const mean = late.reduce((sum, value) => sum + value, 0) / Math.max(1, late.length);
    if (late.length > 0 && mean < LATE) {
      const share = this.#format.percent.format(LATE);
      add('warn', 'deliveries_late', begin(shares, (value) => known(value) !== null && value < LATE), { share });
    }
  }

  /** " since 12:03:10": as the server knows it, else when it was first seen here, else nothing. */
  #since(code, at) {
    if (!this.#first.has(code)) this.#first.set(code, this.#watched ? this.#client.serverTime : null);
    const since = at ?? this.#first.get(code);
    return since === null ? '' : this.#say('since', { time: this.#time(since) });
  }

  // --- showing: only texts and paths change ---------------------------------------------------------------------------

  /** A figure; its row is told whether it is known, and how much room it takes. */
  #put(node, value, text = this.#count(value)) {
    write(node, text);
    const { classList } = node.closest('dl > div');
    classList.toggle('unknown', value === null);
    classList.toggle('six', value !== null && text.length === 7);
    classList.toggle('long', value !== null && text.length > 7);
  }

  #render() {
    const lang = this.#language();
    if (lang !== this.#format.lang) this.#format = formats(lang);
    this.#nodes.panel.lang = this.#own ? lang : 'en';
    const client = this.#client;
    const verdicts = this.#verdicts();
    this.#renderStatus(verdicts);
    if (client?.stats) {
      this.#renderSources(client.stats);
      this.#renderNow(client.stats);
      this.#renderQuality(client.stats);
      this.#renderTotals(client.stats);
    }
    if (client?.history) this.#renderHistory(client.history);
    else if (client?.detailFailures.history) this.#renderRates({});
    this.#renderReasons();
    this.#renderCharts();
    this.#renderDays();
    this.#renderHealth(verdicts);
    this.#renderAges();
  }

  /** What is said aloud: it changes with the state, never with the seconds. */
  #renderStatus([worst]) {
    const { status, state, panel } = this.#nodes;
    const connection = this.#client?.status ?? 'connecting';
    status.className = `status ${connection} ${worst.level}`;
    panel.classList.toggle('aged', connection !== 'live' && Boolean(this.#client?.stats));
    write(state, worst.text);
    if (this.#said === worst.text || worst.code === 'connecting') return;
    this.#said = worst.text;
    const brief = this.#labels[`brief_${worst.code}`] ?? (worst.level === 'bad' ? this.#say('brief_lost') : '');
    this.#emit('messaging-stats-state', { ...worst, brief });
  }

  #scope(stats) {
    if (stats.scope !== 'cluster') return this.#say('this_node');
    const nodes = known(stats.nodes);
    return this.#say('whole_cluster') + (nodes === null ? '' : `, ${this.#nodesText(nodes)}`);
  }

  /** Why the live figures are not known, or not of the whole cluster. */
  #liveError(stats) {
    return stats.cluster?.error ?? stats.error ?? (stats.cluster?.up === false ? this.#say('cluster_not_seen') : null);
  }

  #renderNow(stats) {
    const n = this.#nodes;
    let unknown = false;
    for (const name of FIGURES) {
      const value = known(stats[name]);
      unknown ||= value === null;
      this.#put(n[name], value);
    }
    const window = this.#window();
    const seen = this.#beside(this.#scope(stats), window === null ? '' : this.#span(window.seconds));
    write(n.scope, unknown ? this.#say('unknown_because', { reason: this.#liveError(stats) ?? this.#say('no_reason') }) : seen);
    n.scope.classList.toggle('bad', unknown);
  }

  #renderSources(stats) {
    const { panel, sources } = this.#nodes;
    const observed = stats.scope === 'source' ? list(stats.sources) : [];
    panel.classList.toggle('observed', stats.scope === 'source');
    const names = observed.map(({ name }) => name).join('\n');
    if (sources.dataset.names !== names) {
      sources.dataset.names = names;
      this.#sources = observed.map(() => this.#buildSource());
      sources.replaceChildren(...this.#sources.map(({ node }) => node));
    }
    observed.forEach((source, i) => {
      const { node, name, kind, age, note, figures } = this.#sources[i];
      node.dataset.source = source.name;
      write(name, source.name);
      write(kind, source.kind === source.name ? '' : source.kind);
      const at = moment(source.as_of);
      write(age, source.up === false ? this.#say('down') : at === null ? this.#say('never_seen') : this.#say('as_of', { time: this.#time(at) }));
      age.classList.toggle('old', source.up === false);
      for (const figure of [...TOTALS, ...ACTIVE]) {
        const value = known(ACTIVE.includes(figure) ? source.active_users?.[figure] : source[figure]);
        this.#put(figures[figure], value);
      }
      const wrong = known(source.inaccurate_conversations);
      const differs = wrong > 0 ? this.#say('source_differs', { conversations: this.#count(wrong) }) : '';
      write(note, source.error ? sentence(source.error) : differs);
    });
  }

  #renderQuality(stats) {
    const n = this.#nodes;
    const sum = (counts) => (counts && typeof counts === 'object' ? Object.values(counts).reduce((all, count) => all + (known(count) ?? 0), 0) : null);
    const share = known(stats.delivered_in_time);
    this.#put(n.quality_delivered_in_time, share, stats.delivered_in_time === null ? this.#say('nothing_yet') : this.#share(share));
    this.#put(n.quality_sends_failed, known(stats.sends_failed));
    this.#put(n.quality_connections_refused, sum(stats.refused?.connections));
    this.#put(n.quality_commands_refused, sum(stats.refused?.commands));
    const started = moment(stats.started_at);
    const since = started === null ? '' : this.#say('from', { time: this.#time(started) });
    write(n.qualityScope, this.#beside(this.#say('this_node'), since));
  }

  #renderTotals(stats) {
    const n = this.#nodes;
    const registered = known(stats.registered_users);
    let unknown = false;
    const put = (node, value) => {
      unknown ||= value === null;
      this.#put(node, value);
    };
    for (const name of TOTALS) put(n[name], known(stats[name]));
    for (const window of ACTIVE) {
      const value = known(stats.active_users?.[window]);
      put(n[`active_${window}`], value);
      const share = value === null || !registered ? null : value / registered;
      write(n[`share_${window}`], share === null ? '' : this.#format.percent.format(share));
      n[`bar_${window}`].style.inlineSize = `${Math.min(1, share ?? 0) * 100}%`;
    }
    const reason = stats.database?.error ?? this.#say('no_reason');
    write(n.totalsNote, unknown ? sentence(this.#say('unknown_because', { reason })) : this.#say('stored_note'));
    n.totalsNote.classList.toggle('bad', unknown && typeof stats.database?.up === 'boolean'); // null: none is looked at
  }

  #renderRates(rates) {
    for (const name of RATES) {
      const value = known(list(rates?.[name]).at(-1));
      this.#put(this.#nodes[`speed_${name}`], value, this.#rate(value));
    }
  }

  #renderHistory(history) {
    const n = this.#nodes;
    this.#renderRates(history.rates);
    for (const name of FIGURES) {
      const here = known(this.#client.stats[name]);
      let value = known(history.peaks?.figures?.[name]?.value);
      let at = moment(history.peaks?.figures?.[name]?.at);
      if (value !== null && here > value) [value, at] = [here, this.#client.serverTime]; // higher than any sample yet
      const text = value === null || at === null ? '' : this.#say('peak', { value: this.#count(value), time: this.#format.minute.format(at * 1000) });
      write(n[`peak_${name}`], text);
    }
  }

  #renderReasons() {
    const n = this.#nodes;
    const { stats, history } = this.#client ?? {};
    const sources = {
      closed: [history?.closed, null],
      refused_connections: [history?.refused?.connections, stats?.refused?.connections],
      refused_commands: [history?.refused?.commands, stats?.refused?.commands],
    };
    for (const [kind, [recent, total]] of Object.entries(sources)) {
      for (const reason of REASONS[kind]) {
        const values = { ...recent?.[reason], since_start: total?.[reason] };
        for (const span of ['last_minute', 'last_hour', 'since_start']) {
          const cell = n[`${kind}_${reason}_${span}`];
          if (!cell) continue;
          const value = known(values[span]);
          write(cell, value === null ? '–' : this.#count(value)); // the word is too long for a column
          cell.title = values[span] === undefined || value !== null ? '' : this.#say('unknown');
          cell.classList.toggle('none', !value);
        }
        const row = n[`${kind}_${reason}_last_hour`].parentElement;
        row.classList.toggle('some', row.querySelector('td:not(.none)') !== null);
      }
      const held = (known(history?.length) ?? 360) * (known(history?.step) ?? 10); // seconds: less than an hour at first
      write(n[`${kind}Hour`], held < 3590 ? this.#say('minutes', { n: this.#format.whole.format(Math.max(2, Math.round(held / MINUTE))) }) : this.#say('last_hour'));
    }
  }

  /** The length of a chart in words. */
  #span(seconds) {
    if (seconds >= LONGEST_WINDOW) return this.#say('last_span_hour');
    const minutes = Math.round(seconds / 60);
    return minutes < 2 ? this.#say('last_span_minute') : this.#say('last_span', { n: this.#format.whole.format(minutes) });
  }

  /** The part of the history that is drawn: where it begins, how long it is, and the lines in it. */
  #window() {
    const { history, serverTime } = this.#client ?? {};
    const step = known(history?.step) ?? 10;
    const start = known(history?.start);
    const length = known(history?.length) ?? 0;
    if (start === null || length === 0 || serverTime === null) return null;
    const end = Math.max(serverTime, start + length * step);
    const seconds = Math.min(Math.max(end - start, SHORTEST_WINDOW), LONGEST_WINDOW);
    return { step, start, length, end, seconds, from: end - seconds };
  }

  #line(kind, name) {
    const { history } = this.#client;
    if (kind === 'figures') return history.figures?.[name];
    return name === 'delivered_in_time' ? history.delivered_in_time : history.rates?.[name];
  }

  #renderCharts() {
    const w = this.#window();
    if (w === null) return;
    for (const { kind, name, chart, range } of this.#charts) {
      const points = list(this.#line(kind, name))
        .map((value, i) => [Math.min(w.start + (i + 0.5) * w.step, w.end), known(value)])
        .filter(([at]) => at >= w.from);
      if (kind === 'figures') points.push([w.end, known(this.#client.stats[name])]);
      const all = points.map(([, value]) => value).filter((value) => value !== null);
      const peak = Math.max(0, ...all);
      chart.draw(points, w.from, w.seconds, peak);
      chart.point(this.#pointed);
      write(range, this.#rangeText(kind, name, points, all, w));
    }
    if (this.#pointed !== null) this.#nodes.moment.setAttribute('aria-valuetext', this.#charts[0].range.textContent);
    write(this.#nodes.speedScope, this.#beside(this.#say('this_node'), this.#span(w.seconds)));
  }

  /** Under a chart: lowest and highest of the window, or the value under the pointer. */
  #rangeText(kind, name, points, all, w) {
    const share = name === 'delivered_in_time';
    const format = (value) => (kind === 'figures' ? this.#count(value) : share ? this.#share(value) : this.#rate(value));
    if (this.#pointed === null) {
      if (all.length === 0) return kind === 'figures' || share || w.length > 1 ? '' : this.#say('two_samples');
      const [low, high] = [format(Math.min(...all)), format(Math.max(...all))];
      if (share) return this.#say('lowest', { value: low });
      return kind === 'figures' ? this.#say('range', { low, high }) : this.#say('highest', { value: high });
    }
    const at = w.from + this.#pointed * w.seconds;
    const near = points.reduce((best, p) => (Math.abs(p[0] - at) < Math.abs(best[0] - at) ? p : best), [-Infinity, null]);
    const there = Math.abs(near[0] - at) <= w.step ? format(near[1]) : this.#say('unknown');
    return this.#beside(this.#format.clock.format(at * 1000), there);
  }

  #point(share) {
    this.#pointed = share;
    this.#renderCharts();
  }

  // --- days -----------------------------------------------------------------------------------------------------------

  #choose(index) {
    this.#chosen = index;
    this.#renderDays();
  }

  #renderDays() {
    const n = this.#nodes;
    const { days: answer, daysRead, detailFailures } = this.#client ?? {};
    const failure = detailFailures?.days ?? null;
    let note = this.#say(answer === false ? 'no_days' : 'days_note');
    if (answer?.error) note = sentence(answer.error);
    if (failure !== null) {
      const details = { reason: this.#reason(failure), time: daysRead === null ? '' : this.#time(daysRead) };
      note = sentence(this.#say(answer ? 'not_read_since' : 'unknown_because', details));
    }
    write(n.daysNote, note);
    n.daysNote.classList.toggle('bad', failure !== null || Boolean(answer?.error));
    n.daysNote.parentElement.classList.toggle('none', answer === false);
    n.dayButtons.forEach((button, i) => button.setAttribute('aria-pressed', String(DAYS[i] === this.#shown)));
    if (!answer) {
      if (failure !== null) for (const { range } of this.#bars) write(range, this.#say('unknown'));
      return;
    }
    const days = list(answer.days).slice(-this.#shown);
    const chosen = this.#chosen === null ? null : Math.max(0, this.#chosen - (this.#shown - days.length));
    const name = (day) => this.#format.day.format(Date.parse(`${day}T00:00:00Z`));
    for (const { name: key, bars, range } of this.#bars) {
      const values = days.map((day) => known(day[key]));
      bars.draw(values, chosen);
      const top = values.reduce((best, value, i) => (value !== null && (best === null || value > values[best]) ? i : best), null);
      let text = this.#say('unknown');
      if (chosen !== null && days[chosen]) text = this.#beside(name(days[chosen].day), this.#count(values[chosen]));
      else if (top !== null && values[top] === 0) text = this.#say('nothing_yet');
      else if (top !== null) text = this.#say('highest_day', { value: this.#count(values[top]), day: name(days[top].day) });
      write(range, text);
    }
    if (chosen !== null) n.day.setAttribute('aria-valuetext', this.#bars.map(({ range }) => range.textContent).join(', '));
  }

  /** The days that are shown as a file; asked again, so that it is as the server has it and needs no cookie. */
  async #download() {
    try {
      const text = await this.#client.csv(this.#shown);
      const link = el('a', { href: URL.createObjectURL(new Blob([text], { type: 'text/csv' })), download: `messaging-${this.#shown}-days.csv` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    } catch {
      this.#client?.wake(); // the first line says what is wrong
    }
  }

  // --- health ---------------------------------------------------------------------------------------------------------

  #renderHealth(verdicts) {
    const n = this.#nodes;
    const say = (key, text, mood = '') => {
      write(n[`${key}Word`], text);
      n[`${key}Word`].className = `word ${mood ?? ''}`;
    };
    const { status = 'connecting', stats, history, failure } = this.#client ?? {};
    const version = typeof stats?.version === 'string' ? this.#say('answers_version', { version: stats.version }) : this.#say('answers');
    if (status === 'live') say('server', version, 'good');
    if (status === 'lost') say('server', this.#say(failure?.kind === 'in_trouble' ? 'trouble' : 'no_answer'), 'bad');
    if (status === 'denied') say('server', this.#say('refuses'), 'bad');
    if (!stats) return;
    const started = moment(stats.started_at);
    say('uptime', started === null ? this.#say('unknown') : this.#time(started));
    const trouble = this.#liveError(stats);
    const unknown = FIGURES.some((name) => known(stats[name]) === null);
    say('live', this.#say(unknown ? 'unknown' : stats.scope === 'cluster' ? 'whole_cluster' : 'this_node'), unknown ? 'bad' : '');
    const nodes = known(stats.nodes);
    if (stats.scope === 'source') say('cluster', this.#say('observed'));
    else if (stats.scope !== 'cluster' && trouble === null) say('cluster', this.#say('one_node'));
    else say('cluster', trouble || nodes === null ? this.#say('not_seen') : this.#nodesText(nodes), trouble ? 'bad' : 'good');
    const database = stats.database ?? {};
    if (database.up === true && database.writable === false) say('database', this.#say('read_only'), 'bad');
    else if (database.up === true) say('database', this.#say('up'), 'good');
    else say('database', this.#say(database.up === false ? 'down' : 'unknown'), database.up === false ? 'bad' : '');
    const wrong = this.#inaccurate(stats);
    // What the last recount found stands in the database: while that is down, nobody knows whether there was one.
    if (wrong === null) say('checked', this.#say(database.up === false ? 'unknown' : 'not_recounted'));
    else say('checked', this.#say(wrong ? 'differ' : 'agree'), wrong ? 'bad' : 'good');
    const observed = stats.scope === 'source'; // what is wrong there is said beside each database
    const rest = verdicts.slice(1); // they give their reasons themselves
    const unless = (codes, reason) => (observed || rest.some(({ code }) => codes.includes(code)) ? null : reason ?? null);
    const lost = unless(['cluster_down'], trouble);
    const down = unless(['database_down', 'database_read_only'], database.error);
    const reasons = [lost, down, wrong || null].filter((reason) => reason !== null).map(sentence);
    const others = rest.map(({ text }) => text);
    const unread = status === 'live' ? this.#client.detailFailures.history : null;
    if (unread !== null) others.push(`${this.#say('lines')}: ${sentence(this.#reason(unread))}`);
    write(n.healthNote, [...reasons, ...others].join(' '));
    n.healthNote.classList.toggle('bad', typeof database.up === 'boolean' || trouble !== null || others.length > 0);
    const since = moment(history?.since);
    if (since !== null) say('lines', this.#say('from', { time: this.#format.minute.format(since * 1000) }), unread && 'bad');
    else say('lines', this.#say(unread === null ? 'none_yet' : 'unknown'), unread && 'bad');
  }

  /** What the last verification found, '' when it found nothing, null when there was none. */
  #inaccurate(stats) {
    const found = stats.inaccurate ?? {};
    const counts = ['conversations', 'days', 'triggers'].map((name) => [name, known(found[name])]);
    if (counts.every(([, count]) => count === null)) return null;
    if (counts.every(([, count]) => !count)) return '';
    return this.#say('inaccurate', Object.fromEntries(counts.map(([name, count]) => [name, this.#count(count)])));
  }

  /** Ages go on by this machine's clock from the server's time in its latest answer. */
  #renderAges() {
    const n = this.#nodes;
    const { answered = null, serverTime, status, stats, history } = this.#client ?? {};
    if (answered === null) return;
    const silence = (passed() - answered) / 1000;
    const now = serverTime + silence;
    const since = (at) => (at === null ? null : now - at);
    const late = status !== 'live' || silence >= this.refresh + 2;
    write(n.updated, late ? this.#say('last_answer', { age: this.#age(silence) }) : this.#say('as_of', { time: this.#format.clock.format(serverTime * 1000) }));
    const put = (node, seconds, text = this.#age(seconds)) => {
      write(node, text);
      node.classList.toggle('old', seconds !== null && seconds >= Math.max(STALE, 3 * this.refresh));
    };
    put(n.serverAge, silence);
    write(n.uptimeAge, this.#age(since(moment(stats.started_at))));
    put(n.liveAge, since(moment(stats.as_of)));
    put(n.clusterAge, since(moment(stats.cluster?.as_of)));
    const database = since(moment(stats.database?.as_of));
    put(n.databaseAge, database, database === null ? this.#say('never_seen') : this.#age(database));
    put(n.linesAge, since(moment(history?.as_of)));
    const read = database === null ? '' : this.#say('read', { age: this.#age(database) });
    put(n.totalsAge, database, read);
    put(n.activeAge, database, read);
  }
}

/** Where a pointer is on a picture: 0…1 of its width. */
function share(event, svg) {
  const box = svg.getBoundingClientRect();
  return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
}

const elements = globalThis.customElements;
if (elements && !elements.get('messaging-stats')) elements.define('messaging-stats', MessagingStats);
