/** The admin API in OpenAI's shapes, behind admin keys: one line per group of routes. */
import type { Dependencies } from '../../domain/dependencies.ts';
import type { App } from '../context.ts';
import { adminKeyRoutes } from './admin-keys.ts';
import { adminProjectKeyRoutes } from './admin-project-keys.ts';
import { adminProjectRoutes } from './admin-projects.ts';
import { adminServiceAccountRoutes } from './admin-service-accounts.ts';

export function adminRoutes(app: App, deps: Dependencies): void {
  adminProjectRoutes(app, deps);
  adminProjectKeyRoutes(app, deps);
  adminServiceAccountRoutes(app, deps);
  adminKeyRoutes(app, deps);
}
