// Native functions that are no tensor ops: memory and process state, proven beside this file.

export const NOT_OPS = [
  'info',
  'configure',
  'trim',
  'tensorCreate',
  'tensorView',
  'tensorFree',
  'tensorInfo',
  'tensorWrite',
  'tensorRead',
  'mapFile',
  'cudaInfo',
  'cudaConfigure',
  'synchronize',
  'readLater',
  'deferredReady',
  'deferredTake',
  'captureBegin',
  'captureEnd',
  'graphLaunch',
  'graphFree',
  // Lists of ops: test/native/list-ops.test.ts.
  'sumSquaresInto',
  'adamwList',
];
