package server

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"attendant/imagebuilder"
)

// Devices knows one device.
func (c *stubCatalogue) Devices(_ context.Context, q DeviceQuery) (*DeviceList, error) {
	if q.Version != "" && q.Version != "24.10.4" {
		return nil, imagebuilder.Errorf(imagebuilder.CodeUnsupportedVersion, "Unsupported branch: %s", q.Version)
	}
	device := Device{
		Title: "TP-Link Archer C7 v5", Titles: []imagebuilder.Title{{Vendor: "TP-Link", Model: "Archer C7", Variant: "v5"}},
		Profile: "tplink_archer-c7-v5", Target: "ath79/generic", Aliases: []string{"tplink,archer-c7-v5"}, Versions: []string{"24.10.4"},
	}
	list := &DeviceList{Offset: q.Offset}
	if strings.Contains(strings.ToLower(device.Title), strings.ToLower(q.Text)) && (q.Target == "" || q.Target == device.Target) {
		list.Total = 1
		list.Devices = []Device{device}[min(q.Offset, 1):]
	}
	return list, c.err()
}

// Locate knows what ar71xx has become, and one name too many.
func (c *stubCatalogue) Locate(_ context.Context, version, target string, names ...string) (*Location, error) {
	switch {
	case c.err() != nil:
		return nil, c.err()
	case version != "24.10.4":
		return nil, imagebuilder.Errorf(imagebuilder.CodeUnsupportedVersion, "Unsupported branch: %s", version)
	case target != "ath79/generic" && target != "ar71xx/generic":
		return nil, imagebuilder.Errorf(imagebuilder.CodeUnsupportedTarget, "Unsupported target: %s.", target)
	case slices.Contains(names, "TP-LINK CPE510/520"):
		return nil, imagebuilder.Errorf(imagebuilder.CodeAmbiguousProfile, "Ambiguous profile: TP-LINK CPE510/520. Several devices may be meant: tplink_cpe510-v1, tplink_cpe510-v2.")
	}
	for _, name := range names {
		if strings.Contains(strings.ReplaceAll(strings.ToLower(name), " ", "-"), "archer-c7-v5") {
			return &Location{Version: version, Target: "ath79/generic", Profile: "tplink_archer-c7-v5", Moved: target != "ath79/generic"}, nil
		}
	}
	return nil, imagebuilder.Errorf(imagebuilder.CodeUnsupportedProfile, "Unsupported profile: %s.", strings.Join(names, ", "))
}

func TestDevicesAreFound(t *testing.T) {
	ts := start(t, nil)
	a := ts.get("/api/v1/devices?q=archer")
	want := `{"total":1,"offset":0,"devices":[{"title":"TP-Link Archer C7 v5","titles":[{"vendor":"TP-Link","model":"Archer C7","variant":"v5"}],` +
		`"profile":"tplink_archer-c7-v5","target":"ath79/generic","aliases":["tplink,archer-c7-v5"],"versions":["24.10.4"]}]}`
	if a.status != 200 || string(a.raw) != want {
		t.Errorf("%d %s", a.status, a.raw)
	}
	if a := ts.get("/api/v1/devices?q=toaster"); a.status != 200 || string(a.raw) != `{"total":0,"offset":0,"devices":[]}` {
		t.Errorf("%d %s", a.status, a.raw)
	}
	for query, status := range map[string]int{
		"": 200,
		"version=24.10.4&target=ath79/generic&offset=5&limit=100": 200,
		"version=9.9":                 400,
		"version=../..":               422,
		"target=ath79":                422,
		"limit=0":                     200,
		"limit=101":                   422,
		"limit=x":                     422,
		"offset=-1":                   422,
		"offset=99999999999999999999": 422,
		"q=" + strings.Repeat("a", maxQueryLength):   200,
		"q=" + strings.Repeat("a", maxQueryLength+1): 422,
	} {
		if a := ts.get("/api/v1/devices?" + query); a.status != status {
			t.Errorf("%s: %d %s", query, a.status, a.raw)
		}
	}
	ts.catalog.down.Store(true)
	if a := ts.get("/api/v1/devices"); a.status != 503 {
		t.Errorf("%d %s", a.status, a.raw)
	}
}

func FuzzDeviceQuery(f *testing.F) {
	f.Add("q=tp+link&version=24.10.4&target=ath79/generic&offset=1&limit=2")
	f.Add("q=%00&limit=-1")
	f.Fuzz(func(t *testing.T, raw string) {
		r := &http.Request{URL: &url.URL{RawQuery: raw}}
		q, err := deviceQuery(r)
		if err == nil && (q.Limit < 0 || q.Limit > maxPage || q.Offset < 0 || len(q.Text) > maxQueryLength) {
			t.Fatalf("%+v", q)
		}
	})
}
