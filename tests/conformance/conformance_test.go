// Package conformance is the Gateway API's own suite as one program. What it runs is said by the
// suite's flags, which `cargo xtask conformance` gives: profiles, features, where the report goes.
package conformance

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

func TestConformance(t *testing.T) {
	conformance.RunConformance(t)
}
