/** Adapters: what other folders may import. */
export { LoraAdapter } from './lora.ts';
export {
  checkLoraConfig,
  LORA_DEFAULTS,
  type LoraConfig,
  LoraConfigError,
  type TargetModules,
} from './lora-config.ts';
