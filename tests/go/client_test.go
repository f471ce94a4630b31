// Package clients holds what client-go, the library that most controllers are written with, relies on in an API server.
// It is started by tests/tests/apiserver_clients/go.rs, which gives it a server in KUBECONFIG, and in RESTART a file: when a
// line is added to it, the server is killed and started again. FORGETS is set where a started server remembers no changes.
package clients

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	toolswatch "k8s.io/client-go/tools/watch"
)

const patience = time.Minute

// Whether the server remembers no changes from before its last start, and has watches list again: a real one.
var forgets = os.Getenv("FORGETS") != ""

func config(t *testing.T) *rest.Config {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 1000, 1000
	return config
}

func clientset(t *testing.T) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(config(t))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// space makes a namespace of the test's own.
func space(t *testing.T, client kubernetes.Interface) string {
	t.Helper()
	wanted := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "go-"}}
	namespace, err := client.CoreV1().Namespaces().Create(t.Context(), wanted, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return namespace.Name
}

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"value": value}}
}

// persist does write again while the server is away; it says what was acknowledged, and nil when a repetition found it done.
func persist(t *testing.T, write func() (*corev1.ConfigMap, error)) *corev1.ConfigMap {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		written, err := write()
		switch {
		case err == nil:
			return written
		case apierrors.IsAlreadyExists(err):
			return nil
		case apierrors.ReasonForError(err) != metav1.StatusReasonUnknown || time.Now().After(deadline):
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// restart has the server killed and started again.
func restart(t *testing.T) {
	t.Helper()
	file, err := os.OpenFile(os.Getenv("RESTART"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := fmt.Fprintln(file, t.Name()); err != nil {
		t.Fatal(err)
	}
}

func revision(t *testing.T, object metav1.Object) int {
	t.Helper()
	revision, err := strconv.Atoi(object.GetResourceVersion())
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func TestDiscoveryMapsKindsToPaths(t *testing.T) {
	client := clientset(t)
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery()))
	for kind, resource := range map[schema.GroupKind]string{
		{Kind: "Service"}:                                  "services",
		{Group: "apps", Kind: "Deployment"}:                "deployments",
		{Group: "networking.k8s.io", Kind: "Ingress"}:      "ingresses",
		{Group: "discovery.k8s.io", Kind: "EndpointSlice"}: "endpointslices",
	} {
		mapping, err := mapper.RESTMapping(kind)
		if err != nil || mapping.Resource.Resource != resource || mapping.Scope.Name() != meta.RESTScopeNameNamespace {
			t.Errorf("%v: %v, %v", kind, mapping, err)
		}
	}
	if _, lists, err := client.Discovery().ServerGroupsAndResources(); err != nil || len(lists) < 10 {
		t.Errorf("%d lists, %v", len(lists), err)
	}
}

func TestTheDynamicClientAppliesItsFields(t *testing.T) {
	client := clientset(t)
	namespace := space(t, client)
	dynamicClient, err := dynamic.NewForConfig(config(t))
	if err != nil {
		t.Fatal(err)
	}
	maps := dynamicClient.Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace(namespace)
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1",
		"kind":       "ConfigMap",
		"metadata":   map[string]any{"name": "c"},
		"data":       map[string]any{"one": "1"},
	}}
	if _, err := maps.Apply(t.Context(), "c", object, metav1.ApplyOptions{FieldManager: "one"}); err != nil {
		t.Fatal(err)
	}
	two := applycorev1.ConfigMap("c", namespace).WithData(map[string]string{"two": "2"})
	merged, err := client.CoreV1().ConfigMaps(namespace).Apply(t.Context(), two, metav1.ApplyOptions{FieldManager: "two"})
	if err != nil || len(merged.Data) != 2 {
		t.Fatal(merged, err)
	}
	wrong := applycorev1.ConfigMap("c", namespace).WithData(map[string]string{"one": "2"})
	_, err = client.CoreV1().ConfigMaps(namespace).Apply(t.Context(), wrong, metav1.ApplyOptions{FieldManager: "two"})
	if !apierrors.IsConflict(err) {
		t.Fatalf("a conflict, not %v", err)
	}
	patch := []byte(`{"data":{"one":null}}`)
	if _, err := maps.Patch(t.Context(), "c", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := maps.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Get(t.Context(), "c", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("gone, not %v", err)
	}
}

func TestOneLeaderAtATimeAndTheNextWhenItResigns(t *testing.T) {
	client := clientset(t)
	namespace := space(t, client)
	var lock sync.Mutex
	leaders := []string{}
	leads := map[string]bool{}
	started := func(name string) {
		lock.Lock()
		defer lock.Unlock()
		if len(leads) > 0 {
			t.Errorf("%s and %v lead", name, leads)
		}
		leads[name] = true
		leaders = append(leaders, name)
	}
	stopped := func(name string) {
		lock.Lock()
		defer lock.Unlock()
		delete(leads, name)
	}
	count := func() int {
		lock.Lock()
		defer lock.Unlock()
		return len(leaders)
	}
	cancels := map[string]context.CancelFunc{}
	var done sync.WaitGroup
	for _, name := range []string{"a", "b"} {
		ctx, cancel := context.WithCancel(t.Context())
		cancels[name] = cancel
		defer cancel()
		done.Add(1)
		go func() {
			defer done.Done()
			leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
				Lock: &resourcelock.LeaseLock{
					LeaseMeta:  metav1.ObjectMeta{Namespace: namespace, Name: "l"},
					Client:     client.CoordinationV1(),
					LockConfig: resourcelock.ResourceLockConfig{Identity: name},
				},
				LeaseDuration:   3 * time.Second,
				RenewDeadline:   2 * time.Second,
				RetryPeriod:     200 * time.Millisecond,
				ReleaseOnCancel: true,
				Callbacks: leaderelection.LeaderCallbacks{
					OnStartedLeading: func(context.Context) { started(name) },
					OnStoppedLeading: func() { stopped(name) },
				},
			})
		}()
	}
	eventually(t, "a leader", func() bool { return count() == 1 })
	cancels[leaders[0]]()
	eventually(t, "the other leads", func() bool { return count() == 2 })
	cancels[leaders[1]]()
	done.Wait()
	if leaders[0] == leaders[1] {
		t.Error(leaders)
	}
}

// A watch hears of what happens beside it, here to a Secret of another namespace, by a bookmark some two seconds before it ends.
func TestABookmarkSaysHowFarTheWatchIs(t *testing.T) {
	client := clientset(t)
	namespace, beside := space(t, client), space(t, client)
	secret := func(name string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}
	created, err := client.CoreV1().Secrets(beside).Create(t.Context(), secret("c"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	seconds := int64(5)
	options := metav1.ListOptions{AllowWatchBookmarks: true, ResourceVersion: created.ResourceVersion, TimeoutSeconds: &seconds}
	secrets, err := client.CoreV1().Secrets(namespace).Watch(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	later, err := client.CoreV1().Secrets(beside).Create(t.Context(), secret("d"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	last := 0
	for event := range secrets.ResultChan() {
		if event.Type != watch.Bookmark {
			t.Fatalf("%v", event)
		}
		last = revision(t, event.Object.(*corev1.Secret))
	}
	if last < revision(t, later) {
		t.Errorf("%d is before %s", last, later.ResourceVersion)
	}
}

// The informer and the retrying watch see a stream of writes in the middle of which the server is killed.
func TestNothingIsLostOrSeenTwiceWhenTheServerIsKilled(t *testing.T) {
	client := clientset(t)
	namespace := space(t, client)
	maps := client.CoreV1().ConfigMaps(namespace)
	list, err := maps.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	watches := &cache.ListWatch{WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
		return maps.Watch(ctx, options)
	}}
	retrying, err := toolswatch.NewRetryWatcherWithContext(t.Context(), list.ResourceVersion, watches)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { retrying.Stop() }()

	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
	informer := factory.Core().V1().ConfigMaps()
	var lock sync.Mutex
	events := map[string][]string{}
	note := func(kind string, object any) {
		lock.Lock()
		defer lock.Unlock()
		name := object.(*corev1.ConfigMap).Name
		events[name] = append(events[name], kind)
	}
	_, err = informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { note("add", object) },
		UpdateFunc: func(old, object any) {
			if old.(*corev1.ConfigMap).ResourceVersion != object.(*corev1.ConfigMap).ResourceVersion {
				note("update", object)
			}
		},
		DeleteFunc: func(object any) { note("delete", object) },
	})
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())

	const objects = 60
	acknowledged := map[int]bool{}
	for number := range objects {
		if number%20 == 10 {
			restart(t)
		}
		name := fmt.Sprintf("c%d", number)
		created := persist(t, func() (*corev1.ConfigMap, error) {
			return maps.Create(t.Context(), configMap(name, "first"), metav1.CreateOptions{})
		})
		updated := persist(t, func() (*corev1.ConfigMap, error) {
			return maps.Patch(t.Context(), name, types.MergePatchType, []byte(`{"data":{"value":"second"}}`), metav1.PatchOptions{})
		})
		for _, written := range []*corev1.ConfigMap{created, updated} {
			if written != nil {
				acknowledged[revision(t, written)] = true
			}
		}
	}
	list, err = maps.List(t.Context(), metav1.ListOptions{Limit: 1000})
	if err != nil || len(list.Items) != objects {
		t.Fatal(len(list.Items), err)
	}
	newest := 0
	for _, item := range list.Items {
		newest = max(newest, revision(t, &item))
	}

	last := revision(t, &metav1.ObjectMeta{ResourceVersion: "0"})
	for last < newest {
		select {
		case event := <-retrying.ResultChan():
			if event.Type == watch.Error {
				err := apierrors.FromObject(event.Object)
				if !forgets || !apierrors.IsResourceExpired(err) {
					t.Fatal(err)
				}
				// What a user of this watch does then: list, and watch from there.
				list, err = maps.List(t.Context(), metav1.ListOptions{})
				if err != nil {
					t.Fatal(err)
				}
				last = revision(t, &metav1.ObjectMeta{ResourceVersion: list.ResourceVersion})
				retrying.Stop()
				retrying, err = toolswatch.NewRetryWatcherWithContext(t.Context(), list.ResourceVersion, watches)
				if err != nil {
					t.Fatal(err)
				}
				for known := range acknowledged {
					if known <= last {
						delete(acknowledged, known)
					}
				}
				continue
			}
			if event.Type == watch.Bookmark {
				continue
			}
			next := revision(t, mustMeta(t, event.Object))
			if next <= last {
				t.Fatalf("%d after %d", next, last)
			}
			last = next
			delete(acknowledged, next)
		case <-time.After(patience):
			t.Fatal("no event in time")
		}
	}
	if len(acknowledged) > 0 {
		t.Errorf("acknowledged and never seen: %v", acknowledged)
	}

	eventually(t, "the informer's store", func() bool {
		for _, item := range list.Items {
			cached, err := informer.Lister().ConfigMaps(namespace).Get(item.Name)
			if err != nil || cached.ResourceVersion != item.ResourceVersion {
				return false
			}
		}
		return true
	})
	lock.Lock()
	defer lock.Unlock()
	for name, kinds := range events {
		if kinds[0] != "add" || len(kinds) > 2 {
			t.Errorf("%s: %v", name, kinds)
		}
	}
}

func mustMeta(t *testing.T, object runtime.Object) metav1.Object {
	t.Helper()
	accessor, err := meta.Accessor(object)
	if err != nil {
		t.Fatal(err)
	}
	return accessor
}
