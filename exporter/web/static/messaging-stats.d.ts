// Types of messaging-stats.js, for TypeScript in any framework.

/** A figure; null is "not known", with the reason in an `error` beside it. */
export type Figure = number | null;

/** What `/v1/messaging/stats` says. Fields that older servers do not have are optional. */
export interface Stats {
  active_connections: Figure;
  connected_users: Figure;
  active_conversations: Figure;
  total_participants: Figure;
  typing_users: Figure;
  total_messages: Figure;
  total_conversations: Figure;
  messages_today: Figure;
  registered_users: Figure;
  active_users: { '1d': Figure; '7d': Figure; '30d': Figure };
  /** Whose the first five figures are: this node's, or those of all nodes together; `source`: of observed databases. */
  scope: 'node' | 'cluster' | 'source';
  nodes: Figure;
  /** RFC 3339, UTC, as all times here. */
  as_of: string;
  database: { up: boolean; as_of: string | null; error: string | null; writable?: boolean | null };
  cluster?: { up: boolean; as_of: string | null; error: string | null; settling?: boolean };
  /** The five live figures of this node alone, where `scope` is "cluster". */
  node?: Record<string, Figure>;
  version?: string;
  started_at?: string;
  /** Refused since the start of this node, by reason. */
  refused?: { connections: Record<string, number>; commands: Record<string, number> };
  sends_failed?: Figure;
  /** The share (0…1) of messages delivered within 0.25 s since the start of this node; null before the first. */
  delivered_in_time?: Figure;
  /** What the latest recount found; each null before the first. */
  inaccurate?: { conversations: Figure; days: Figure; triggers: Figure };
  /** Since when this node has seen that something is wrong, by the code of the first line; null while it is not. */
  since?: Record<string, string | null>;
  /** The databases that are observed, where `scope` is "source". */
  sources?: Source[];
}

/** One observed database: its totals, and why those that are null are not known. */
export interface Source {
  name: string;
  kind: string;
  total_messages: Figure;
  total_conversations: Figure;
  messages_today: Figure;
  registered_users: Figure;
  active_users: { '1d': Figure; '7d': Figure; '30d': Figure };
  up: boolean;
  as_of: string | null;
  error: string | null;
  /** Since when it is not seen; null while it is. */
  since?: string | null;
}

/** One UTC day of `/v1/messaging/stats/days`. */
export interface Day {
  day: string;
  messages: Figure;
  active_users: Figure;
}

/** The first line of the panel: is anything wrong, and since when. */
export interface StatsState {
  level: 'good' | 'note' | 'warn' | 'bad';
  /** What it is about, such as "all_is_well_up", "database_down", "lost": a key of `LABELS`. */
  code: string;
  text: string;
  /** The same in two words, for a title; empty when all is well. */
  brief: string;
}

/** A token of role admin, or a function that gets one; null uses the cookie of the admin page. */
export type Token = string | null | (() => string | null | Promise<string | null>);

/** Texts in place of the English ones; the keys are those of `LABELS`. */
export type Labels = Partial<Record<keyof typeof LABELS, string>>;

/** Every text of the panel, in English. */
export declare const LABELS: Readonly<Record<LabelKey, string>>;

export type StatsUpdateEvent = CustomEvent<Stats>;
export type StatsDeniedEvent = CustomEvent<{ status: number; reason: string }>;
export type StatsStateEvent = CustomEvent<StatsState>;

/** Why there are no figures; `kind` is a key of `LABELS`, `message` the English sentence. */
export declare class StatsFailure extends Error {
  readonly kind: string;
  readonly details: Readonly<Record<string, string | number>>;
  readonly status: number | null;
}

export interface StatsClientOptions {
  src?: string;
  token?: Token;
  /** Seconds between two polls. */
  refresh?: number;
  /** Ask for the last hour and the days too (true by default). */
  details?: boolean;
  onChange?: (what: 'update' | 'history' | 'days' | 'lost' | 'denied') => void;
}

/** Asks one server for its figures from `start()` to `stop()`; what the element and the React hook are made of. */
export declare class StatsClient {
  constructor(options?: StatsClientOptions);
  refresh: number;
  readonly status: 'connecting' | 'live' | 'lost' | 'denied';
  readonly stats: Stats | null;
  readonly history: unknown;
  readonly days: { days: Day[]; error: string | null } | false | null;
  readonly failure: StatsFailure | null;
  /** Why the latest look at the history or the days failed while the server was there. */
  readonly detailFailures: { readonly history: StatsFailure | null; readonly days: StatsFailure | null };
  /** The server's clock when the days were read, Unix seconds. */
  readonly daysRead: number | null;
  start(): void;
  stop(): void;
  /** Ask at once instead of at the end of the pause. */
  wake(): void;
  /** The last `days` days as comma-separated values. */
  csv(days: number): Promise<string>;
}

export interface MessagingStatsEventMap extends HTMLElementEventMap {
  'messaging-stats-update': StatsUpdateEvent;
  'messaging-stats-denied': StatsDeniedEvent;
  'messaging-stats-state': StatsStateEvent;
}

/** `<messaging-stats>`. */
export declare class MessagingStats extends HTMLElement {
  /** Where the figures are; `/v1/messaging/stats` on the page's own origin by default. */
  src: string;
  /** Kept out of the document when it is set here and not as an attribute. */
  token: Token;
  /** Seconds between two polls, 2 by default. */
  refresh: number;
  get labels(): Readonly<Record<LabelKey, string>>;
  set labels(labels: Labels | null);
  addEventListener<K extends keyof MessagingStatsEventMap>(
    type: K,
    listener: (this: MessagingStats, event: MessagingStatsEventMap[K]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof MessagingStatsEventMap>(
    type: K,
    listener: (this: MessagingStats, event: MessagingStatsEventMap[K]) => unknown,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject,
    options?: boolean | EventListenerOptions,
  ): void;
}

/** The attributes, properties and events of the element in JSX (React 19 and others that set properties). */
export interface MessagingStatsAttributes {
  src?: string | undefined;
  token?: Token | undefined;
  refresh?: number | undefined;
  labels?: Labels | null | undefined;
  'onmessaging-stats-update'?: ((event: StatsUpdateEvent) => void) | undefined;
  'onmessaging-stats-denied'?: ((event: StatsDeniedEvent) => void) | undefined;
  'onmessaging-stats-state'?: ((event: StatsStateEvent) => void) | undefined;
}

declare global {
  interface HTMLElementTagNameMap {
    'messaging-stats': MessagingStats;
  }
}

// Adds to React's types where a project has them; the two comments keep a project without React compiling.
// @ts-ignore
declare module 'react' {
  namespace JSX {
    interface IntrinsicElements {
      // @ts-ignore
      'messaging-stats': DetailedHTMLProps<HTMLAttributes<MessagingStats>, MessagingStats> & MessagingStatsAttributes;
    }
  }
}

/** The keys of `LABELS`. */
export type LabelKey =
  | 'connecting' | 'all_is_well' | 'all_is_well_up' | 'restarted' | 'denied' | 'lost' | 'in_trouble' | 'unreachable'
  | 'blocked' | 'policy' | 'mixed' | 'timed_out' | 'not_json' | 'not_found' | 'database_down' | 'source_down'
  | 'source_wrong' | 'database_read_only' | 'cluster_down' | 'totals_wrong' | 'internal_errors' | 'sends_failing' | 'at_capacity'
  | 'deliveries_late' | 'since' | 'brief_denied' | 'brief_lost' | 'brief_in_trouble'
  | 'brief_restarted' | 'brief_database_down' | 'brief_source_down' | 'brief_source_wrong' | 'brief_database_read_only'
  | 'brief_cluster_down' | 'brief_totals_wrong' | 'brief_internal_errors' | 'brief_sends_failing'
  | 'brief_at_capacity' | 'brief_deliveries_late' | 'now' | 'speed' | 'quality' | 'days' | 'closed'
  | 'refused_connections' | 'refused_commands' | 'stored' | 'sources' | 'people' | 'health' | 'active_connections'
  | 'active_connections_hint' | 'connected_users' | 'connected_users_hint' | 'active_conversations'
  | 'active_conversations_hint' | 'total_participants' | 'total_participants_hint' | 'typing_users'
  | 'typing_users_hint' | 'peak' | 'peak_hint' | 'messages' | 'messages_hint' | 'deliveries' | 'deliveries_hint'
  | 'joins' | 'joins_hint' | 'connects' | 'connects_hint' | 'delivered_in_time' | 'delivered_in_time_hint'
  | 'sends_failed' | 'sends_failed_hint' | 'connections_refused' | 'connections_refused_hint' | 'commands_refused'
  | 'commands_refused_hint' | 'total_messages' | 'messages_today' | 'total_conversations' | 'registered_users' | '1d'
  | '7d' | '30d' | 'day_messages' | 'day_active_users' | 'show_days' | 'download' | 'download_hint' | 'reason'
  | 'last_minute' | 'last_hour' | 'since_start' | 'since_start_hint' | 'closed_client' | 'closed_shutdown'
  | 'closed_heartbeat' | 'closed_slow_consumer' | 'closed_protocol_error' | 'closed_rate_limited'
  | 'closed_token_expired' | 'closed_admin' | 'closed_internal_error' | 'refused_connections_unauthenticated'
  | 'refused_connections_origin' | 'refused_connections_capacity' | 'refused_connections_user_limit'
  | 'refused_connections_draining' | 'refused_connections_handshake' | 'refused_commands_bad_frame'
  | 'refused_commands_unknown_type' | 'refused_commands_not_joined' | 'refused_commands_forbidden'
  | 'refused_commands_not_found' | 'refused_commands_too_large' | 'refused_commands_rate_limited'
  | 'refused_commands_unavailable' | 'refused_commands_internal' | 'server' | 'uptime' | 'live' | 'cluster'
  | 'database' | 'checked' | 'lines' | 'ages' | 'answers' | 'answers_version' | 'no_answer' | 'trouble' | 'refuses'
  | 'one_node' | 'observed' | 'not_seen' | 'up' | 'down' | 'read_only' | 'agree' | 'differ' | 'not_recounted'
  | 'source_differs' | 'inaccurate' | 'none_yet' | 'never_seen' | 'this_node' | 'whole_cluster' | 'nodes_one' | 'nodes_other'
  | 'last_span' | 'last_span_minute' | 'last_span_hour' | 'seconds' | 'minutes' | 'hours' | 'days_old' | 'as_of'
  | 'last_answer' | 'read' | 'from' | 'range' | 'highest' | 'lowest' | 'highest_day' | 'moment' | 'day' | 'unknown'
  | 'nothing_yet' | 'no_reason' | 'unknown_because' | 'two_samples' | 'cluster_not_seen' | 'stored_note'
  | 'people_note' | 'days_note' | 'not_read_since' | 'no_days';
