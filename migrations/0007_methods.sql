-- Memory of the device on which a trainer's jobs run: an estimate says whether a training fits.
ALTER TABLE "workers" ADD COLUMN "memory_bytes" bigint;
