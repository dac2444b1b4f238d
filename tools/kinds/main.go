// Reads objects of Kubernetes from stdin, a list in JSON, each into the Go type that its gateway reads it into, and prints those with a
// field that the type does not have, or with a value of another kind. The tests of deploy/ run it.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	gateway "github.com/envoyproxy/gateway/api/v1alpha1"
	contour "github.com/projectcontour/contour/apis/projectcontour/v1"
	contouralpha "github.com/projectcontour/contour/apis/projectcontour/v1alpha1"
	"google.golang.org/protobuf/encoding/protojson"
	istio "istio.io/api/networking/v1alpha3"
	gatewayapi "sigs.k8s.io/gateway-api/apis/v1"
	gatewayapibeta "sigs.k8s.io/gateway-api/apis/v1beta1"
	"sigs.k8s.io/yaml"
)

var kinds = map[string]func([]byte) error{
	"gateway.envoyproxy.io/v1alpha1/BackendTrafficPolicy": strictly[gateway.BackendTrafficPolicy],
	"gateway.envoyproxy.io/v1alpha1/EnvoyGateway":         strictly[gateway.EnvoyGateway],
	"gateway.envoyproxy.io/v1alpha1/EnvoyPatchPolicy":     strictly[gateway.EnvoyPatchPolicy],
	"gateway.envoyproxy.io/v1alpha1/Backend":              strictly[gateway.Backend],
	"projectcontour.io/v1alpha1/ExtensionService":         strictly[contouralpha.ExtensionService],
	"projectcontour.io/v1alpha1/ContourConfiguration":     strictly[contouralpha.ContourConfiguration],
	"projectcontour.io/v1/HTTPProxy":                      strictly[contour.HTTPProxy],
	"networking.istio.io/v1alpha3/EnvoyFilter":            envoyFilter,
	"gateway.networking.k8s.io/v1/Gateway":                strictly[gatewayapi.Gateway],
	"gateway.networking.k8s.io/v1/GatewayClass":           strictly[gatewayapi.GatewayClass],
	"gateway.networking.k8s.io/v1/HTTPRoute":              strictly[gatewayapi.HTTPRoute],
	"gateway.networking.k8s.io/v1beta1/ReferenceGrant":    strictly[gatewayapibeta.ReferenceGrant],
}

func strictly[T any](object []byte) error {
	return yaml.UnmarshalStrict(object, new(T))
}

// Istio's own reading of JSON skips fields that do not exist.
func envoyFilter(object []byte) error {
	var whole struct {
		Spec json.RawMessage `json:"spec"`
	}
	if err := json.Unmarshal(object, &whole); err != nil {
		return err
	}
	return protojson.Unmarshal(whole.Spec, &istio.EnvoyFilter{})
}

func main() {
	var objects []json.RawMessage
	if err := json.NewDecoder(os.Stdin).Decode(&objects); err != nil {
		panic(err)
	}
	for _, object := range objects {
		var head struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
		}
		_ = json.Unmarshal(object, &head)
		name := head.APIVersion + "/" + head.Kind
		read, known := kinds[name]
		if !known {
			fmt.Println(name + ": unknown kind")
		} else if err := read(object); err != nil {
			fmt.Println(name + ": " + strings.ReplaceAll(err.Error(), "\n", " "))
		}
	}
}
