package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	core "k8s.io/api/core/v1"
	extensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	extensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Runs a check in a namespace that is there only for it.
func inNamespace(config *rest.Config, name string, run func(context.Context, *rest.Config, string) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	namespaces := kubernetes.NewForConfigOrDie(config).CoreV1().Namespaces()
	namespace := &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: name}}
	if _, err := namespaces.Create(ctx, namespace, meta.CreateOptions{}); err != nil {
		return err
	}
	err := run(ctx, config, name)
	// The check's own time may be over.
	after, stop := context.WithTimeout(context.Background(), limit)
	defer stop()
	return errors.Join(err, namespaces.Delete(after, name, meta.DeleteOptions{}))
}

// Waits until a condition holds.
func until(ctx context.Context, what string, holds func(context.Context) (bool, error)) error {
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 30*time.Second, true, holds)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Fails unless a condition holds.
func require(holds bool, what string, args ...any) error {
	if holds {
		return nil
	}
	return fmt.Errorf(what, args...)
}

func configMap(name string, data map[string]string) *core.ConfigMap {
	return &core.ConfigMap{ObjectMeta: meta.ObjectMeta{Name: name}, Data: data}
}

// Installs a definition of gizmos in a group of the namespace's name, and returns how to remove it.
func gizmos(ctx context.Context, config *rest.Config, namespace string) (schema.GroupVersionResource, func(), error) {
	group := namespace + ".example.com"
	resource := schema.GroupVersionResource{Group: group, Version: "v1", Resource: "gizmos"}
	definitions := extensionsclient.NewForConfigOrDie(config).ApiextensionsV1().CustomResourceDefinitions()
	integer := extensions.JSONSchemaProps{Type: "integer"}
	object := extensions.JSONSchemaProps{Type: "object", Properties: map[string]extensions.JSONSchemaProps{"size": integer}}
	definition := &extensions.CustomResourceDefinition{
		ObjectMeta: meta.ObjectMeta{Name: "gizmos." + group},
		Spec: extensions.CustomResourceDefinitionSpec{
			Group: group,
			Names: extensions.CustomResourceDefinitionNames{Plural: "gizmos", Singular: "gizmo", Kind: "Gizmo", ListKind: "GizmoList"},
			Scope: extensions.NamespaceScoped,
			Versions: []extensions.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Subresources: &extensions.CustomResourceSubresources{Status: &extensions.CustomResourceSubresourceStatus{}},
				Schema: &extensions.CustomResourceValidation{OpenAPIV3Schema: &extensions.JSONSchemaProps{
					Type:       "object",
					Properties: map[string]extensions.JSONSchemaProps{"spec": object, "status": object},
				}},
			}},
		},
	}
	if _, err := definitions.Create(ctx, definition, meta.CreateOptions{}); err != nil {
		return resource, nil, err
	}
	remove := func() { _ = definitions.Delete(context.Background(), definition.Name, meta.DeleteOptions{}) }
	err := until(ctx, "the definition is established", func(ctx context.Context) (bool, error) {
		now, err := definitions.Get(ctx, definition.Name, meta.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, condition := range now.Status.Conditions {
			if condition.Type == extensions.Established && condition.Status == extensions.ConditionTrue {
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		remove()
	}
	return resource, remove, err
}
