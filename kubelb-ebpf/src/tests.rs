mod concurrency;
mod frames;
mod properties;
