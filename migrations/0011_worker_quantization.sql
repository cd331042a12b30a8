-- How an inference worker holds the weights of its base model, where not as they are: models tell their users.
ALTER TABLE workers ADD COLUMN quantization text;
