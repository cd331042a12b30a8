/** Pages by cursor: a list asks for one row more than it shows, and so knows whether there are others. */

/** The page that `limit + 1` asked rows make. */
export function pageOf<T>(rows: T[], limit: number): { items: T[]; hasMore: boolean } {
  return { items: rows.slice(0, limit), hasMore: rows.length > limit };
}
