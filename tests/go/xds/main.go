// A management server made of go-control-plane, for an agent that must not need ours.
//
// It reads one configuration a line from its standard input, as JSON, and tells on its standard output, one JSON object a line, where it
// listens and what the data plane answers. It ends with its input.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tcpproxy "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	udpproxy "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/udp/udp_proxy/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Configuration is all there is, from one line of the input.
type Configuration struct {
	Version   string
	Listeners []Listener
	// Clusters have the addresses of their endpoints.
	Clusters map[string][]string
}

// Listener is a frontend.
type Listener struct {
	Name, Address, Cluster string
	UDP                    bool
	// Odd listeners have something that is not for a kernel.
	Odd bool
}

// One node hash: every peer gets the same.
type everyone struct{}

func (everyone) ID(*core.Node) string { return "everyone" }

var output sync.Mutex

// tell writes one line.
func tell(event map[string]any) {
	output.Lock()
	defer output.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(event); err != nil {
		log.Fatal(err)
	}
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	snapshots := cache.NewSnapshotCache(true, everyone{}, nil)
	callbacks := server.CallbackFuncs{
		StreamDeltaRequestFunc: func(_ int64, request *discovery.DeltaDiscoveryRequest) error {
			tell(answer(request))
			return nil
		},
		StreamDeltaResponseFunc: func(_ int64, _ *discovery.DeltaDiscoveryRequest, response *discovery.DeltaDiscoveryResponse) {
			names := []string{}
			for _, resource := range response.Resources {
				names = append(names, resource.Name)
			}
			tell(map[string]any{"event": "sent", "type": response.TypeUrl, "names": names, "removed": response.RemovedResources})
		},
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	serving := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(serving, server.NewServer(ctx, snapshots, callbacks))
	go func() {
		if err := serving.Serve(socket); err != nil {
			log.Fatal(err)
		}
	}()
	tell(map[string]any{"event": "listening", "address": socket.Addr().String()})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var configuration Configuration
		if err := json.Unmarshal(lines.Bytes(), &configuration); err != nil {
			return err
		}
		snapshot, err := translate(configuration)
		if err != nil {
			return err
		}
		if err := snapshot.Consistent(); err != nil {
			return err
		}
		if err := snapshots.SetSnapshot(ctx, "everyone", snapshot); err != nil {
			return err
		}
	}
	return lines.Err()
}

// answer is what a request says of the response before it.
func answer(request *discovery.DeltaDiscoveryRequest) map[string]any {
	event := map[string]any{"type": request.TypeUrl, "brought": len(request.InitialResourceVersions)}
	switch {
	case request.ErrorDetail != nil:
		details := []string{}
		for _, detail := range request.ErrorDetail.Details {
			details = append(details, detail.TypeUrl)
		}
		event["event"], event["text"], event["details"] = "nack", request.ErrorDetail.Message, details
	case request.ResponseNonce != "":
		event["event"] = "ack"
	default:
		event["event"] = "asked"
	}
	return event
}

func translate(configuration Configuration) (*cache.Snapshot, error) {
	resources := map[resource.Type][]types.Resource{}
	for name, addresses := range configuration.Clusters {
		assignment := &endpoint.ClusterLoadAssignment{ClusterName: name}
		members := &endpoint.LocalityLbEndpoints{}
		for _, text := range addresses {
			address, err := socketAddress(text, false)
			if err != nil {
				return nil, err
			}
			members.LbEndpoints = append(members.LbEndpoints, &endpoint.LbEndpoint{
				HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: address}},
			})
		}
		assignment.Endpoints = append(assignment.Endpoints, members)
		resources[resource.EndpointType] = append(resources[resource.EndpointType], assignment)
		resources[resource.ClusterType] = append(resources[resource.ClusterType], &cluster.Cluster{
			Name:                 name,
			ConnectTimeout:       durationpb.New(time.Second),
			ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_EDS},
			EdsClusterConfig: &cluster.Cluster_EdsClusterConfig{EdsConfig: &core.ConfigSource{
				ResourceApiVersion:    core.ApiVersion_V3,
				ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
			}},
		})
	}
	for _, wanted := range configuration.Listeners {
		made, err := frontend(wanted)
		if err != nil {
			return nil, err
		}
		resources[resource.ListenerType] = append(resources[resource.ListenerType], made)
	}
	return cache.NewSnapshot(configuration.Version, resources)
}

func frontend(wanted Listener) (*listener.Listener, error) {
	address, err := socketAddress(wanted.Address, wanted.UDP)
	if err != nil {
		return nil, err
	}
	made := &listener.Listener{Name: wanted.Name, Address: address}
	if wanted.UDP {
		config, err := anypb.New(&udpproxy.UdpProxyConfig{
			StatPrefix:     wanted.Name,
			RouteSpecifier: &udpproxy.UdpProxyConfig_Cluster{Cluster: wanted.Cluster},
		})
		if err != nil {
			return nil, err
		}
		made.ListenerFilters = []*listener.ListenerFilter{{
			Name:       "envoy.filters.udp_listener.udp_proxy",
			ConfigType: &listener.ListenerFilter_TypedConfig{TypedConfig: config},
		}}
		return made, nil
	}
	proxy := &tcpproxy.TcpProxy{
		StatPrefix:       wanted.Name,
		ClusterSpecifier: &tcpproxy.TcpProxy_Cluster{Cluster: wanted.Cluster},
	}
	if wanted.Odd {
		proxy.TunnelingConfig = &tcpproxy.TcpProxy_TunnelingConfig{Hostname: "example.com:443"}
	}
	config, err := anypb.New(proxy)
	if err != nil {
		return nil, err
	}
	made.FilterChains = []*listener.FilterChain{{Filters: []*listener.Filter{{
		Name:       "envoy.filters.network.tcp_proxy",
		ConfigType: &listener.Filter_TypedConfig{TypedConfig: config},
	}}}}
	return made, nil
}

func socketAddress(text string, isUDP bool) (*core.Address, error) {
	parsed, err := netip.ParseAddrPort(text)
	if err != nil {
		return nil, fmt.Errorf("an address of the input: %w", err)
	}
	protocol := core.SocketAddress_TCP
	if isUDP {
		protocol = core.SocketAddress_UDP
	}
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Protocol:      protocol,
		Address:       parsed.Addr().String(),
		PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(parsed.Port())},
	}}}, nil
}
