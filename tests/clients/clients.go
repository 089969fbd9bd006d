package main

import (
	"context"
	"fmt"
	"slices"

	apps "k8s.io/api/apps/v1"
	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	discoveryclient "k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	scaleclient "k8s.io/client-go/scale"
	"k8s.io/client-go/tools/pager"
)

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

func discovery(_ context.Context, config *rest.Config, _ string) error {
	client := discoveryclient.NewDiscoveryClientForConfigOrDie(config)
	version, err := client.ServerVersion()
	if err != nil {
		return err
	}
	if err := require(version.Major == "1", "the version is %s.%s", version.Major, version.Minor); err != nil {
		return err
	}
	groups, resources, err := client.ServerGroupsAndResources()
	if err != nil {
		return err
	}
	if err := require(len(groups) > 10 && len(resources) > 10, "%d groups, %d lists", len(groups), len(resources)); err != nil {
		return err
	}
	preferred, err := client.ServerPreferredNamespacedResources()
	if err != nil {
		return err
	}
	verbs := discoveryclient.FilteredBy(discoveryclient.SupportsAllVerbs{Verbs: []string{"list", "watch", "create"}}, preferred)
	if err := require(len(verbs) > 5, "%d lists with these verbs", len(verbs)); err != nil {
		return err
	}
	// The older form, group by group, as a client that knows no other asks for it.
	old, err := client.WithLegacy().ServerResourcesForGroupVersion("apps/v1")
	if err != nil {
		return err
	}
	scale := slices.ContainsFunc(old.APIResources, func(r meta.APIResource) bool {
		return r.Name == "deployments/scale" && r.Group == "autoscaling"
	})
	if err := require(scale, "apps/v1 has no deployments/scale"); err != nil {
		return err
	}
	mapped, err := restmapper.GetAPIGroupResources(client)
	if err != nil {
		return err
	}
	mapping, err := restmapper.NewDiscoveryRESTMapper(mapped).RESTMapping(schema.GroupKind{Group: "apps", Kind: "Deployment"})
	if err != nil {
		return err
	}
	if err := require(mapping.Resource.Resource == "deployments", "deployments are %v", mapping.Resource); err != nil {
		return err
	}
	paths, err := client.OpenAPIV3().Paths()
	if err != nil {
		return err
	}
	if err := require(paths["apis/apps/v1"] != nil, "no OpenAPI for apps/v1"); err != nil {
		return err
	}
	if _, err := paths["apis/apps/v1"].Schema("application/json"); err != nil {
		return err
	}
	_, err = client.OpenAPISchema()
	return err
}

func typed(ctx context.Context, config *rest.Config, namespace string) error {
	client := kubernetes.NewForConfigOrDie(config)
	maps := client.CoreV1().ConfigMaps(namespace)
	first, err := maps.Create(ctx, configMap("a", map[string]string{"one": "1"}), meta.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = maps.Create(ctx, configMap("a", nil), meta.CreateOptions{})
	if err := require(apierrors.IsAlreadyExists(err), "created twice: %v", err); err != nil {
		return err
	}
	changed := first.DeepCopy()
	changed.Data["two"] = "2"
	changed, err = maps.Update(ctx, changed, meta.UpdateOptions{})
	if err != nil {
		return err
	}
	first.Data["three"] = "3"
	_, err = maps.Update(ctx, first, meta.UpdateOptions{})
	if err := require(apierrors.IsConflict(err), "an older version was taken: %v", err); err != nil {
		return err
	}
	patched, err := maps.Patch(ctx, "a", types.StrategicMergePatchType, []byte(`{"data":{"one":null}}`), meta.PatchOptions{})
	if err != nil {
		return err
	}
	if err := require(len(patched.Data) == 1 && patched.Data["two"] == "2", "the patch left %v", patched.Data); err != nil {
		return err
	}
	_, err = maps.Get(ctx, "none", meta.GetOptions{})
	if err := require(apierrors.IsNotFound(err), "found: %v", err); err != nil {
		return err
	}
	made, err := client.AppsV1().Deployments(namespace).Create(ctx, deployment("d"), meta.CreateOptions{})
	if err != nil {
		return err
	}
	strategy := made.Spec.Strategy.RollingUpdate
	if err := require(strategy != nil && strategy.MaxSurge.StrVal == "25%", "no defaults: %v", made.Spec.Strategy); err != nil {
		return err
	}
	wrong := deployment("wrong")
	wrong.Spec.Selector = &meta.LabelSelector{MatchLabels: map[string]string{"app": "other"}}
	_, err = client.AppsV1().Deployments(namespace).Create(ctx, wrong, meta.CreateOptions{})
	if err := require(apierrors.IsInvalid(err), "a selector that selects nothing: %v", err); err != nil {
		return err
	}
	pod := &core.Pod{ObjectMeta: meta.ObjectMeta{Name: "p"}, Spec: made.Spec.Template.Spec}
	if _, err := client.CoreV1().Pods(namespace).Create(ctx, pod, meta.CreateOptions{}); err != nil {
		return err
	}
	eviction := &policy.Eviction{ObjectMeta: meta.ObjectMeta{Name: "p", Namespace: namespace}}
	if err := client.PolicyV1().Evictions(namespace).Evict(ctx, eviction); err != nil {
		return fmt.Errorf("eviction: %w", err)
	}
	if changed.ResourceVersion == first.ResourceVersion {
		return fmt.Errorf("the resource version stayed %s", first.ResourceVersion)
	}
	return maps.DeleteCollection(ctx, meta.DeleteOptions{}, meta.ListOptions{LabelSelector: "!kept"})
}

func deployment(name string) *apps.Deployment {
	labels := map[string]string{"app": name}
	return &apps.Deployment{
		ObjectMeta: meta.ObjectMeta{Name: name},
		Spec: apps.DeploymentSpec{
			Selector: &meta.LabelSelector{MatchLabels: labels},
			Template: core.PodTemplateSpec{
				ObjectMeta: meta.ObjectMeta{Labels: labels},
				Spec:       core.PodSpec{Containers: []core.Container{{Name: "c", Image: "example.com/none"}}},
			},
		},
	}
}

func reviews(ctx context.Context, config *rest.Config, namespace string) error {
	client := kubernetes.NewForConfigOrDie(config)
	account := &core.ServiceAccount{ObjectMeta: meta.ObjectMeta{Name: "robot"}}
	if _, err := client.CoreV1().ServiceAccounts(namespace).Create(ctx, account, meta.CreateOptions{}); err != nil {
		return err
	}
	seconds := int64(600)
	request := &authentication.TokenRequest{Spec: authentication.TokenRequestSpec{Audiences: []string{"someone"}, ExpirationSeconds: &seconds}}
	token, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, "robot", request, meta.CreateOptions{})
	if err != nil {
		return err
	}
	review := &authentication.TokenReview{Spec: authentication.TokenReviewSpec{Token: token.Status.Token, Audiences: []string{"someone"}}}
	reviewed, err := client.AuthenticationV1().TokenReviews().Create(ctx, review, meta.CreateOptions{})
	if err != nil {
		return err
	}
	name := "system:serviceaccount:" + namespace + ":robot"
	if err := require(reviewed.Status.Authenticated && reviewed.Status.User.Username == name, "the token is %v", reviewed.Status); err != nil {
		return err
	}
	review.Spec.Audiences = []string{"another"}
	reviewed, err = client.AuthenticationV1().TokenReviews().Create(ctx, review, meta.CreateOptions{})
	if err != nil {
		return err
	}
	if err := require(!reviewed.Status.Authenticated, "the token is good for anybody"); err != nil {
		return err
	}
	access := &authorization.SubjectAccessReview{Spec: authorization.SubjectAccessReviewSpec{
		User:               name,
		ResourceAttributes: &authorization.ResourceAttributes{Namespace: namespace, Verb: "get", Resource: "secrets"},
	}}
	decided, err := client.AuthorizationV1().SubjectAccessReviews().Create(ctx, access, meta.CreateOptions{})
	if err != nil {
		return err
	}
	return require(!decided.Status.Allowed, "a new account may read secrets")
}

func dynamicClient(ctx context.Context, config *rest.Config, namespace string) error {
	resource, remove, err := gizmos(ctx, config, namespace)
	if err != nil {
		return err
	}
	defer remove()
	client := dynamic.NewForConfigOrDie(config).Resource(resource).Namespace(namespace)
	gizmo := func(name string, size int64) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": resource.GroupVersion().String(), "kind": "Gizmo",
			"metadata": map[string]any{"name": name}, "spec": map[string]any{"size": size},
		}}
	}
	// A definition that is established may not be served for a moment yet.
	err = until(ctx, "the first gizmo", func(ctx context.Context) (bool, error) {
		_, err := client.Create(ctx, gizmo("a", 1), meta.CreateOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return err
	}
	patched, err := client.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"size":2},"status":{"size":9}}`), meta.PatchOptions{})
	if err != nil {
		return err
	}
	_, hasStatus := patched.Object["status"]
	if err := require(patched.GetGeneration() == 2 && !hasStatus, "after a patch: %v", patched.Object); err != nil {
		return err
	}
	patched.Object["status"] = map[string]any{"size": int64(2)}
	patched, err = client.UpdateStatus(ctx, patched, meta.UpdateOptions{})
	if err != nil {
		return err
	}
	if err := require(patched.GetGeneration() == 2, "the status has changed the generation"); err != nil {
		return err
	}
	applied, err := client.Apply(ctx, "b", gizmo("b", 3), meta.ApplyOptions{FieldManager: "clients"})
	if err != nil {
		return err
	}
	if err := require(len(applied.GetManagedFields()) == 1, "managers: %v", applied.GetManagedFields()); err != nil {
		return err
	}
	wrong := gizmo("c", 1)
	wrong.Object["spec"] = map[string]any{"size": "big"}
	_, err = client.Create(ctx, wrong, meta.CreateOptions{})
	if err := require(apierrors.IsInvalid(err), "a size that is a word: %v", err); err != nil {
		return err
	}
	list, err := client.List(ctx, meta.ListOptions{FieldSelector: "metadata.name=b"})
	if err != nil {
		return err
	}
	return require(len(list.Items) == 1, "%d of one", len(list.Items))
}

func paging(ctx context.Context, config *rest.Config, namespace string) error {
	client := kubernetes.NewForConfigOrDie(config).CoreV1().ConfigMaps(namespace)
	for number := range 23 {
		object := configMap(fmt.Sprintf("m-%02d", number), nil)
		object.Labels = map[string]string{"page": "yes"}
		if _, err := client.Create(ctx, object, meta.CreateOptions{}); err != nil {
			return err
		}
	}
	pages, seen := 0, map[string]bool{}
	lister := pager.New(func(ctx context.Context, options meta.ListOptions) (runtime.Object, error) {
		pages++
		return client.List(ctx, options)
	})
	lister.PageSize = 5
	err := lister.EachListItem(ctx, meta.ListOptions{LabelSelector: "page=yes"}, func(object runtime.Object) error {
		seen[object.(*core.ConfigMap).Name] = true
		return nil
	})
	if err != nil {
		return err
	}
	return require(len(seen) == 23 && pages == 5, "%d objects on %d pages", len(seen), pages)
}

func metadataClient(ctx context.Context, config *rest.Config, namespace string) error {
	maps := kubernetes.NewForConfigOrDie(config).CoreV1().ConfigMaps(namespace)
	if _, err := maps.Create(ctx, configMap("a", map[string]string{"k": "v"}), meta.CreateOptions{}); err != nil {
		return err
	}
	client := metadata.NewForConfigOrDie(config).Resource(configMaps).Namespace(namespace)
	list, err := client.List(ctx, meta.ListOptions{FieldSelector: "metadata.name=a"})
	if err != nil {
		return err
	}
	if err := require(len(list.Items) == 1, "%d of one", len(list.Items)); err != nil {
		return err
	}
	labelled, err := client.Patch(ctx, "a", types.MergePatchType, []byte(`{"metadata":{"labels":{"x":"y"}}}`), meta.PatchOptions{})
	if err != nil {
		return err
	}
	return require(labelled.Labels["x"] == "y", "labels: %v", labelled.Labels)
}

func scales(ctx context.Context, config *rest.Config, namespace string) error {
	client := kubernetes.NewForConfigOrDie(config)
	if _, err := client.AppsV1().Deployments(namespace).Create(ctx, deployment("d"), meta.CreateOptions{}); err != nil {
		return err
	}
	cached, err := restmapper.GetAPIGroupResources(client.Discovery())
	if err != nil {
		return err
	}
	mapper := restmapper.NewDiscoveryRESTMapper(cached)
	resolver := scaleclient.NewDiscoveryScaleKindResolver(client.Discovery())
	scale, err := scaleclient.NewForConfig(config, mapper, dynamic.LegacyAPIPathResolverFunc, resolver)
	if err != nil {
		return err
	}
	resource := schema.GroupResource{Group: "apps", Resource: "deployments"}
	now, err := scale.Scales(namespace).Get(ctx, resource, "d", meta.GetOptions{})
	if err != nil {
		return err
	}
	now.Spec.Replicas = 4
	if _, err := scale.Scales(namespace).Update(ctx, resource, now, meta.UpdateOptions{}); err != nil {
		return err
	}
	changed, err := client.AppsV1().Deployments(namespace).Get(ctx, "d", meta.GetOptions{})
	if err != nil {
		return err
	}
	return require(*changed.Spec.Replicas == 4, "%d replicas", *changed.Spec.Replicas)
}
