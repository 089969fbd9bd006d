// The clients that programs in Go are made of, against the API server of a kubeconfig: each check walks a part of
// client-go or controller-runtime as a controller would. The same program runs against Ambit's API server and against
// a real one. It leaves nothing behind.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// A check gets a namespace of its own.
type check struct {
	name string
	run  func(ctx context.Context, config *rest.Config, namespace string) error
}

var checks = []check{
	{"discovery", discovery},
	{"typed clients", typed},
	{"reviews and tokens", reviews},
	{"dynamic client", dynamicClient},
	{"paging", paging},
	{"metadata client", metadataClient},
	{"server-side apply", apply},
	{"scale client", scales},
	{"informers", informers},
	{"informer of an own kind", dynamicInformer},
	{"watch that begins anew", retryWatch},
	{"leader election", election},
	{"event recorder", recorder},
	{"owners and dependents", owners},
	{"controller-runtime", controllerRuntime},
}

// No check takes longer.
const limit = time.Minute

func main() {
	// What the libraries say beside their errors is not of interest here.
	log.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	// The default of five requests a second would be most of the time.
	config.QPS, config.Burst = 100, 200
	failed := 0
	for number, check := range checks {
		began := time.Now()
		err := inNamespace(config, fmt.Sprintf("clients-%d-%d", os.Getpid(), number), check.run)
		if err != nil {
			failed++
			fmt.Printf("FAIL  %s: %v\n", check.name, err)
			continue
		}
		fmt.Printf("ok    %-26s %5.1f s\n", check.name, time.Since(began).Seconds())
	}
	if failed > 0 {
		fmt.Printf("%d of %d checks failed\n", failed, len(checks))
		os.Exit(1)
	}
	fmt.Printf("all %d checks passed\n", len(checks))
}
