//! Testbed: network namespaces with real traffic, the agent as a process, packets as bytes.
//!
//! Everything that a test makes is removed when its guard is dropped, also when the test panics; what a killed test run
//! left behind is removed by the next one ([`netns::reap`]). Runs side by side don't clash: names carry the owner.
//! Needs root; tools that are missing are named in the error, nothing is skipped.

pub mod agent;
pub mod apiserver;
pub mod bare;
pub mod capture;
pub mod cases;
pub mod cluster;
pub mod control_plane;
pub mod controllers;
pub mod envoy;
pub mod gateway_api;
pub mod kernel;
pub mod kubelet;
pub mod lan;
pub mod manager;
pub mod netns;
pub mod packet;
pub mod scratch;
pub mod service_proxy;
pub mod system;
pub mod tool;
pub mod topology;
pub mod traffic;
pub mod wait;
pub mod wire;
pub mod world;
pub mod xds;
