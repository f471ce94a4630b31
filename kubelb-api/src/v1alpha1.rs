//! Version `v1alpha1`: one kind in each module, and the parts that several kinds share.
//!
//! Types say what the schema says and no more: they must read every object that an API server with these definitions accepts. Words that
//! the core API owns (the type of a Service, a traffic policy) are plain text here, so that a new one does not make an object unreadable.

mod address_claim;
mod addresses;
mod annotation_settings;
mod config;
mod endpoint;
mod envoy_proxy;
mod load_balancer;
mod route;
mod sync_secret;
mod tenant;
mod tenant_settings;
mod tenant_state;
mod traffic;
mod virtual_address_owner;

pub use address_claim::{AddressClaim, AddressClaimSpec, AddressClaimStatus, Holder};
pub use addresses::{Addresses, AddressesSpec, AddressesStatus};
pub use annotation_settings::AnnotationSettings;
pub use config::{AddressPool, Config, ConfigSpec, ConfigStatus};
pub use endpoint::{EndpointAddress, EndpointPort, LoadBalancerEndpoints, Protocol};
pub use envoy_proxy::{
    AccessLog, AccessLogFormat, CircuitBreaker, ConnectionLimits, EnvoyProxy, EnvoyProxyTopology, GracefulShutdown,
    HeaderLimits, OutlierDetection, OverloadManager, PodMonitor,
};
pub use load_balancer::{
    DataPlane, DataPlaneMode, HostnameStatus, LoadBalancer, LoadBalancerPort, LoadBalancerSpec, LoadBalancerStatus,
    ServiceStatus, UpstreamServicePort,
};
pub use route::{
    KubernetesSource, RefusedReference, ResourceState, ResourcesStatus, Route, RouteServiceStatus, RouteSource,
    RouteSpec, RouteStatus,
};
pub use sync_secret::{SyncSecret, SyncSecretContent, SyncSecretPhase, SyncSecretStatus};
pub use tenant::{Tenant, TenantEnvoyProxy, TenantPhase, TenantSpec, TenantStatus};
pub use tenant_settings::{
    CertificatesSettings, DnsSettings, GatewayApiSettings, IngressSettings, LoadBalancerSettings,
};
pub use tenant_state::{LoadBalancerState, TenantState, TenantStateSpec, TenantStateStatus, Version};
pub use traffic::{
    Algorithm, HealthCheck, HealthCheckType, HttpHealthCheck, OnUnhealthy, Persistence, PersistenceType, Timeouts,
};
pub use virtual_address_owner::{VirtualAddressOwner, VirtualAddressOwnerSpec, VirtualAddressOwnerStatus};
