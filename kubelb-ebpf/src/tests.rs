mod concurrency;
mod frames;
mod half_open;
mod properties;
mod timeouts;
