// A control plane made of the code that Envoy Gateway and Envoy AI Gateway run: the SnapshotCache and the server of go-control-plane. It
// reads commands from stdin, and prints what it is asked; the tests of rules over xDS run it.
//
// A command is a line of JSON:
//
//	{"version": "7", "resources": ["<a RateLimitConfig in protobuf and base64>", ...]}
//	{"absent": true}     a snapshot without the type, and so without a version: what is left when the last Gateway is deleted
//	{"stop": true}       leave as gRPC's GracefulStop does, which waits for every call
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cache "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	server "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	ratelimit "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
)

type command struct {
	Version   string   `json:"version"`
	Resources [][]byte `json:"resources"`
	Absent    bool     `json:"absent"`
	Stop      bool     `json:"stop"`
}

type request struct {
	Stream  int64  `json:"stream"`
	Node    string `json:"node"`
	Version string `json:"version"`
	Nonce   string `json:"nonce"`
	Code    int32  `json:"code"`
	Error   string `json:"error"`
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "where to listen")
	node := flag.String("node", "envoy-ratelimit", "the only node that is answered")
	certificate := flag.String("cert", "", "our certificate; with it, TLS as Envoy Gateway has it")
	key := flag.String("key", "", "its key")
	clients := flag.String("ca", "", "the CA of the clients")
	flag.Parse()

	var options []grpc.ServerOption // as in Envoy Gateway, none about keepalive: gRPC's defaults hold
	if *certificate != "" {
		options = append(options, grpc.Creds(credentials.NewTLS(config(*certificate, *key, *clients))))
	}
	snapshots := cache.NewSnapshotCache(false, cache.IDHash{}, nil)
	out := json.NewEncoder(os.Stdout)
	callbacks := server.CallbackFuncs{
		StreamRequestFunc: func(stream int64, asked *discovery.DiscoveryRequest) error {
			detail := asked.GetErrorDetail()
			return out.Encode(request{
				stream, asked.GetNode().GetId(), asked.GetVersionInfo(), asked.GetResponseNonce(), detail.GetCode(), detail.GetMessage(),
			})
		},
	}
	served := grpc.NewServer(options...)
	discovery.RegisterAggregatedDiscoveryServiceServer(served, server.NewServer(context.Background(), snapshots, callbacks))
	listener, err := net.Listen("tcp", *listen)
	check(err)
	fmt.Println(listener.Addr())
	go func() {
		check(served.Serve(listener))
	}()

	commands := bufio.NewScanner(os.Stdin)
	commands.Buffer(nil, 256<<20)
	for commands.Scan() {
		var told command
		check(json.Unmarshal(commands.Bytes(), &told))
		if told.Stop {
			break
		}
		check(snapshots.SetSnapshot(context.Background(), *node, snapshot(told)))
	}
	served.GracefulStop()
}

func snapshot(told command) cache.ResourceSnapshot {
	if told.Absent {
		empty, err := cache.NewSnapshot("", map[resource.Type][]types.Resource{})
		check(err)
		return empty
	}
	resources := []types.Resource{}
	for _, data := range told.Resources {
		config := &ratelimit.RateLimitConfig{}
		check(proto.Unmarshal(data, config))
		resources = append(resources, config)
	}
	made, err := cache.NewSnapshot(told.Version, map[resource.Type][]types.Resource{resource.RateLimitConfigType: resources})
	check(err)
	return made
}

func config(certificate, key, clients string) *tls.Config {
	pair, err := tls.LoadX509KeyPair(certificate, key)
	check(err)
	pem, err := os.ReadFile(clients)
	check(err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		check(errors.New("no certificate in " + clients))
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{"h2"},
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
