/** Pages by cursor: a list asks for one row more than it shows, and so knows whether there are others. */
export interface Page<T> {
  items: T[];
  hasMore: boolean;
}

/** The page that `limit + 1` asked rows make. */
export function pageOf<T>(rows: T[], limit: number): Page<T> {
  return { items: rows.slice(0, limit), hasMore: rows.length > limit };
}
