/** A process that only delivers webhooks, for tests that kill it. `node webhook-child.ts <database url>`. */
import { loadConfig } from '../../src/config.ts';
import { openDatabase } from '../../src/db/client.ts';
import { startWebhookDelivery } from '../../src/domain/webhooks/deliver.ts';
import { createLog } from '../../src/log.ts';

const config = loadConfig({}, { webhookPrivateAddresses: true, webhookPollMilliseconds: 20 });
const database = openDatabase(process.argv[2]!, { connections: 2 });
startWebhookDelivery({ config, database, log: createLog({ level: 'silent' }) });
setInterval(() => {}, 1000); // the delivery alone keeps no process alive
