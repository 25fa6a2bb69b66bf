/**
 * Whose data it is. Tenant and user are walls: they must match exactly, and an unset one matches only unset.
 * Session and agent narrow a read when they are set.
 */
export interface Scope {
  /** The organisation. A wall. */
  tenant?: string | null
  /** The person. A wall. */
  user?: string | null
  /** The conversation. Narrows. */
  session?: string | null
  /** The agent that acts. Narrows. */
  agent?: string | null
}
