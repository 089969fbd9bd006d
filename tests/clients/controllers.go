package main

import (
	"context"
	"errors"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	informerfactory "k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	watchtools "k8s.io/client-go/tools/watch"
	ctrl "sigs.k8s.io/controller-runtime"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

func apply(ctx context.Context, config *rest.Config, namespace string) error {
	maps := kubernetes.NewForConfigOrDie(config).CoreV1().ConfigMaps(namespace)
	one := coreapply.ConfigMap("a", namespace).WithData(map[string]string{"x": "1", "y": "1"})
	if _, err := maps.Apply(ctx, one, meta.ApplyOptions{FieldManager: "one"}); err != nil {
		return err
	}
	two := coreapply.ConfigMap("a", namespace).WithData(map[string]string{"y": "2"})
	_, err := maps.Apply(ctx, two, meta.ApplyOptions{FieldManager: "two"})
	if err := require(apierrors.IsConflict(err), "no conflict: %v", err); err != nil {
		return err
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) || len(status.Status().Details.Causes) != 1 || status.Status().Details.Causes[0].Field != ".data.y" {
		return errors.New("the conflict does not name the field")
	}
	forced, err := maps.Apply(ctx, two, meta.ApplyOptions{FieldManager: "two", Force: true})
	if err != nil {
		return err
	}
	// What a manager owns can be read out of the object.
	own, err := coreapply.ExtractConfigMap(forced, "one")
	if err != nil {
		return err
	}
	if err := require(len(own.Data) == 1 && own.Data["x"] == "1", "one owns %v", own.Data); err != nil {
		return err
	}
	// Left out of the next apply, it goes.
	less, err := maps.Apply(ctx, coreapply.ConfigMap("a", namespace), meta.ApplyOptions{FieldManager: "one"})
	if err != nil {
		return err
	}
	return require(len(less.Data) == 1 && less.Data["y"] == "2", "left: %v", less.Data)
}

// What an informer has told.
type told struct {
	lock                    sync.Mutex
	added, changed, deleted int
}

func (t *told) handler() cache.ResourceEventHandlerFuncs {
	count := func(number *int) {
		t.lock.Lock()
		defer t.lock.Unlock()
		*number++
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { count(&t.added) },
		UpdateFunc: func(any, any) { count(&t.changed) },
		DeleteFunc: func(any) { count(&t.deleted) },
	}
}

func (t *told) becomes(ctx context.Context, added, changed, deleted int) error {
	return until(ctx, "the informer's events", func(context.Context) (bool, error) {
		t.lock.Lock()
		defer t.lock.Unlock()
		return t.added == added && t.changed == changed && t.deleted == deleted, nil
	})
}

func informers(ctx context.Context, config *rest.Config, namespace string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client := kubernetes.NewForConfigOrDie(config)
	secrets := client.CoreV1().Secrets(namespace)
	secret := &core.Secret{ObjectMeta: meta.ObjectMeta{Name: "before"}}
	if _, err := secrets.Create(ctx, secret, meta.CreateOptions{}); err != nil {
		return err
	}
	factory := informerfactory.NewSharedInformerFactoryWithOptions(client, 0, informerfactory.WithNamespace(namespace))
	informer := factory.Core().V1().Secrets()
	seen := &told{}
	if _, err := informer.Informer().AddEventHandler(seen.handler()); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer cancel()
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return errors.New(kind.String() + " did not synchronise")
		}
	}
	after, err := secrets.Create(ctx, &core.Secret{ObjectMeta: meta.ObjectMeta{Name: "after"}}, meta.CreateOptions{})
	if err != nil {
		return err
	}
	after.Data = map[string][]byte{"k": {0, 255}}
	if _, err := secrets.Update(ctx, after, meta.UpdateOptions{}); err != nil {
		return err
	}
	if err := secrets.Delete(ctx, "before", meta.DeleteOptions{}); err != nil {
		return err
	}
	if err := seen.becomes(ctx, 2, 1, 1); err != nil {
		return err
	}
	cached, err := informer.Lister().Secrets(namespace).Get("after")
	if err != nil {
		return err
	}
	return require(len(cached.Data["k"]) == 2, "the cache has %v", cached.Data)
}

func dynamicInformer(ctx context.Context, config *rest.Config, namespace string) error {
	resource, remove, err := gizmos(ctx, config, namespace)
	if err != nil {
		return err
	}
	defer remove()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client := dynamic.NewForConfigOrDie(config)
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(client, 0, namespace, nil)
	seen := &told{}
	if _, err := factory.ForResource(resource).Informer().AddEventHandler(seen.handler()); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	gizmo := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": resource.GroupVersion().String(), "kind": "Gizmo", "metadata": map[string]any{"name": "a"},
	}}
	made, err := client.Resource(resource).Namespace(namespace).Create(ctx, gizmo, meta.CreateOptions{})
	if err != nil {
		return err
	}
	made.SetLabels(map[string]string{"x": "y"})
	if _, err := client.Resource(resource).Namespace(namespace).Update(ctx, made, meta.UpdateOptions{}); err != nil {
		return err
	}
	return seen.becomes(ctx, 1, 1, 0)
}

func retryWatch(ctx context.Context, config *rest.Config, namespace string) error {
	maps := kubernetes.NewForConfigOrDie(config).CoreV1().ConfigMaps(namespace)
	first, err := maps.Create(ctx, configMap("a", nil), meta.CreateOptions{})
	if err != nil {
		return err
	}
	// Each watch of the server ends after a second; the watcher begins the next where it ended.
	second := int64(1)
	watcher, err := watchtools.NewRetryWatcherWithContext(ctx, first.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, options meta.ListOptions) (watch.Interface, error) {
			options.TimeoutSeconds = &second
			return maps.Watch(ctx, options)
		},
	})
	if err != nil {
		return err
	}
	defer watcher.Stop()
	go func() {
		for _, name := range []string{"b", "c", "d"} {
			time.Sleep(800 * time.Millisecond)
			_, _ = maps.Create(ctx, configMap(name, nil), meta.CreateOptions{})
		}
	}()
	names := ""
	for event := range watcher.ResultChan() {
		object, is := event.Object.(*core.ConfigMap)
		if !is {
			return errors.New("an event without an object: " + string(event.Type))
		}
		// Every namespace gets this one by itself.
		if object.Name == "kube-root-ca.crt" {
			continue
		}
		names += object.Name
		if object.Name == "d" {
			break
		}
	}
	return require(names == "bcd", "the watch has seen %q", names)
}

func election(ctx context.Context, config *rest.Config, namespace string) error {
	leads := make(chan string, 4)
	candidate := func(ctx context.Context, name string) {
		lock, err := resourcelock.NewFromKubeconfig(resourcelock.LeasesResourceLock, namespace, "leader",
			resourcelock.ResourceLockConfig{Identity: name}, config, time.Second)
		if err != nil {
			leads <- err.Error()
			return
		}
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock: lock, LeaseDuration: 3 * time.Second, RenewDeadline: 2 * time.Second, RetryPeriod: 300 * time.Millisecond,
			ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { leads <- name },
				OnStoppedLeading: func() {},
			},
		})
	}
	next := func(wanted string) error {
		select {
		case leader := <-leads:
			return require(leader == wanted, "%s leads, not %s", leader, wanted)
		case <-ctx.Done():
			return errors.New(wanted + " does not lead")
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first, resign := context.WithCancel(ctx)
	defer resign()
	go candidate(first, "first")
	if err := next("first"); err != nil {
		return err
	}
	go candidate(ctx, "second")
	select {
	case leader := <-leads:
		return errors.New(leader + " leads too")
	case <-time.After(time.Second):
	}
	resign()
	return next("second")
}

func recorder(ctx context.Context, config *rest.Config, namespace string) error {
	typed := kubernetes.NewForConfigOrDie(config)
	object, err := typed.CoreV1().ConfigMaps(namespace).Create(ctx, configMap("a", nil), meta.CreateOptions{})
	if err != nil {
		return err
	}
	object.Kind, object.APIVersion = "ConfigMap", "v1"
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: typed.EventsV1()})
	defer broadcaster.Shutdown()
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return err
	}
	recorder := broadcaster.NewRecorder(scheme.Scheme, "clients")
	recorder.Eventf(object, nil, core.EventTypeNormal, "Looked", "Look", "looked at %s", object.Name)
	// Written to one group, it is read from the other.
	return until(ctx, "the event", func(ctx context.Context) (bool, error) {
		list, err := typed.CoreV1().Events(namespace).List(ctx, meta.ListOptions{FieldSelector: "involvedObject.name=a,reason=Looked"})
		if err != nil || len(list.Items) == 0 {
			return false, err
		}
		return true, require(list.Items[0].Message == "looked at a", "the message is %q", list.Items[0].Message)
	})
}

func owners(ctx context.Context, config *rest.Config, namespace string) error {
	maps := kubernetes.NewForConfigOrDie(config).CoreV1().ConfigMaps(namespace)
	owner, err := maps.Create(ctx, configMap("owner", nil), meta.CreateOptions{})
	if err != nil {
		return err
	}
	dependent := configMap("dependent", nil)
	dependent.OwnerReferences = []meta.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}}
	if _, err := maps.Create(ctx, dependent, meta.CreateOptions{}); err != nil {
		return err
	}
	if err := maps.Delete(ctx, "owner", meta.DeleteOptions{}); err != nil {
		return err
	}
	return until(ctx, "the dependent goes", func(ctx context.Context) (bool, error) {
		_, err := maps.Get(ctx, "dependent", meta.GetOptions{})
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
}

const finalizer = "example.com/clients"

// Keeps a secret beside each config map that asks for one.
type keeper struct{ client.Client }

func (k *keeper) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	var object core.ConfigMap
	if err := k.Get(ctx, request.NamespacedName, &object); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if object.Labels["keep"] != "yes" {
		return reconcile.Result{}, nil
	}
	if !object.DeletionTimestamp.IsZero() {
		if controllerutil.RemoveFinalizer(&object, finalizer) {
			return reconcile.Result{}, k.Update(ctx, &object)
		}
		return reconcile.Result{}, nil
	}
	if controllerutil.AddFinalizer(&object, finalizer) {
		if err := k.Update(ctx, &object); err != nil {
			return reconcile.Result{}, err
		}
	}
	secret := &core.Secret{ObjectMeta: meta.ObjectMeta{Name: object.Name, Namespace: object.Namespace}}
	_, err := controllerutil.CreateOrUpdate(ctx, k.Client, secret, func() error {
		secret.StringData = map[string]string{"copy": object.Data["value"]}
		return controllerutil.SetControllerReference(&object, secret, k.Scheme())
	})
	return reconcile.Result{}, err
}

func controllerRuntime(ctx context.Context, config *rest.Config, namespace string) error {
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Cache:                   ctrlcache.Options{DefaultNamespaces: map[string]ctrlcache.Config{namespace: {}}},
		Metrics:                 server.Options{BindAddress: "0"},
		LeaderElection:          true,
		LeaderElectionID:        "clients.example.com",
		LeaderElectionNamespace: namespace,
	})
	if err != nil {
		return err
	}
	byValue := func(object client.Object) []string { return []string{object.(*core.ConfigMap).Data["value"]} }
	if err := manager.GetFieldIndexer().IndexField(ctx, &core.ConfigMap{}, "value", byValue); err != nil {
		return err
	}
	controller := ctrl.NewControllerManagedBy(manager).For(&core.ConfigMap{}).Owns(&core.Secret{})
	if err := controller.Complete(&keeper{manager.GetClient()}); err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- manager.Start(running) }()
	err = keptInStep(ctx, manager.GetClient(), namespace)
	stop()
	return errors.Join(err, <-ended)
}

func keptInStep(ctx context.Context, c client.Client, namespace string) error {
	object := configMap("kept", map[string]string{"value": "one"})
	object.Namespace, object.Labels = namespace, map[string]string{"keep": "yes"}
	if err := c.Create(ctx, object); err != nil {
		return err
	}
	key := client.ObjectKeyFromObject(object)
	copyIs := func(value string) error {
		return until(ctx, "the secret says "+value, func(ctx context.Context) (bool, error) {
			var secret core.Secret
			err := c.Get(ctx, key, &secret)
			return err == nil && string(secret.Data["copy"]) == value, client.IgnoreNotFound(err)
		})
	}
	if err := copyIs("one"); err != nil {
		return err
	}
	// A secret that somebody deletes comes back: the controller watches what it owns.
	if err := c.Delete(ctx, &core.Secret{ObjectMeta: meta.ObjectMeta{Name: "kept", Namespace: namespace}}); err != nil {
		return err
	}
	if err := copyIs("one"); err != nil {
		return err
	}
	patch := client.RawPatch(client.Merge.Type(), []byte(`{"data":{"value":"two"}}`))
	if err := c.Patch(ctx, object, patch); err != nil {
		return err
	}
	if err := copyIs("two"); err != nil {
		return err
	}
	var list core.ConfigMapList
	if err := c.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{"value": "two"}); err != nil {
		return err
	}
	if err := require(len(list.Items) == 1, "%d of one by index", len(list.Items)); err != nil {
		return err
	}
	// The finalizer holds it until the controller lets it go; then the secret goes with its owner.
	if err := c.Delete(ctx, object); err != nil {
		return err
	}
	gone := func(object client.Object) error {
		return until(ctx, "what was kept goes", func(ctx context.Context) (bool, error) {
			err := c.Get(ctx, key, object)
			return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
		})
	}
	return errors.Join(gone(&core.ConfigMap{}), gone(&core.Secret{}))
}
