/**
 * The values of `format` that can be generated, as regular expressions. Each is narrower than its standard where the
 * standard cannot be told by an expression of reasonable size: every text it gives is valid, not every valid text is
 * among them.
 */

const date =
  '(\\d{4}-(((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01]))|((0[469]|11)-(0[1-9]|[12]\\d|30))|(02-(0[1-9]|1\\d|2[0-8]))))';
const clock = '(([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d))';
const label = '[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?';
const octet = '(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)';
const group = '[0-9a-f]{1,4}';
const hex = (count: number) => `[0-9a-f]{${count}}`;

/** RFC 3339, 5321 (dot-atoms of ASCII), 1123, 791, 4291 (eight groups), 4122. */
export const FORMATS: Readonly<Record<string, string>> = {
  date,
  time: clock,
  'date-time': `${date}T${clock}`,
  duration: 'P(\\d{1,4}W|\\d{1,4}D(T\\d{1,2}H)?|\\d{1,3}Y(\\d{1,2}M)?|T\\d{1,4}[HMS])',
  email: `[a-z0-9]([a-z0-9_+-]{0,20}[a-z0-9])?(\\.[a-z0-9]{1,20}){0,2}@(${label}\\.){1,3}[a-z]{2,8}`,
  hostname: `(${label}\\.){0,3}${label}`,
  ipv4: `${octet}\\.${octet}\\.${octet}\\.${octet}`,
  ipv6: `(${group}:){7}${group}`,
  uuid: `${hex(8)}-${hex(4)}-[1-5]${hex(3)}-[89ab]${hex(3)}-${hex(12)}`,
};
