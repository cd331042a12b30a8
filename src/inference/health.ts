/** The API's look at how busy an inference worker is (GET /health of protocol.ts). */
import type { WorkerHealth } from './protocol.ts';

const TIMEOUT_MS = 2_000;

/** The worker's own figures, or null when it does not give them. Throws the signal's reason when it was aborted. */
export async function readHealth(
  url: string,
  token: string,
  signal: AbortSignal,
): Promise<WorkerHealth | null> {
  try {
    const response = await fetch(new URL('/health', url), {
      headers: { authorization: `Bearer ${token}` },
      redirect: 'error',
      signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]),
    });
    if (response.status !== 200) return null;
    return (await response.json()) as WorkerHealth;
  } catch {
    signal.throwIfAborted();
    return null;
  }
}
