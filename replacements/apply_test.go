package replacements

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"attendant/imagebuilder"
)

// theProposal is the example of the proposal of 2017.
const theProposal = `
openvpn:
  openvpn-openssl: {default: true}
  openvpn-mbedtls: {installed: [mbedtls]}
  openvpn-wolfssl: {}
polarssl: {mbedtls: {default: true}}
luci-app-diag-core: {}
kmod-foo: {all: [kmod-foo-core, kmod-foo-usb]}
libmicrohttpd:
  libmicrohttpd-no-ssl: {default: true}
  libmicrohttpd: {}
`

func TestShapes(t *testing.T) {
	tables := map[string]string{
		"18.06": `
chain-a: {chain-b: {default: true}}
merge-a: {merged: {default: true}}
merge-b: {merged: {default: true}}
all: {source: {default: true}}
`,
		"19.07": `
chain-b: {chain-c: {default: true}}
chain-c: {chain-d: {default: true}}
pick: {one: {}, two: {}}
stay: {stay: {}, other: {}}
`,
		"21.02": theProposal + `
lang-old-*: {lang-new-*: {default: true}}
lang-old-xx: {lang-none: {default: true}}
lang-*-en: {}
by-target:
  - {targets: [ath79/*], for-ath79: {default: true}}
  - {targets: [x86/64], profiles: [generic], for-x86: {default: true}}
  - {for-others: {default: true}}
late: {later: {default: true}, from: 21.02.3}
early: {earlier: {default: true}, to: 21.02}
must: {mandatory: true}
add:
  - {packages: [wanted], targets: [ath79/generic], profiles: [device]}
  - {packages: [chain-x]}
chain-x: {chain-y: {default: true}}
`,
	}
	set := loaded(t, tables)
	type want struct {
		packages, dropped, added, choices string
	}
	for name, c := range map[string]struct {
		req  Request
		want want
	}{
		"rename":                  {Request{Packages: words("polarssl")}, want{packages: "mbedtls"}},
		"chain":                   {Request{Packages: words("chain-a")}, want{packages: "chain-d"}},
		"chain, halfway":          {Request{From: "18.06.1", Packages: words("chain-a chain-b")}, want{packages: "chain-a chain-d"}},
		"merge":                   {Request{Packages: words("x merge-b merge-a y")}, want{packages: "x merged y"}},
		"merge with itself":       {Request{Packages: words("merge-a merged")}, want{packages: "merged"}},
		"split":                   {Request{Packages: words("kmod-foo kmod-foo-usb")}, want{packages: "kmod-foo-core kmod-foo-usb"}},
		"dropped":                 {Request{Packages: words("luci-app-diag-core a")}, want{packages: "a", dropped: "luci-app-diag-core"}},
		"dropped, in the index":   {Request{Packages: words("luci-app-diag-core must"), Exists: indexOf("luci-app-diag-core", "must")}, want{packages: "luci-app-diag-core", dropped: "must"}},
		"packages named as words": {Request{Packages: words("all")}, want{packages: "source"}},
		"default":                 {Request{Packages: words("openvpn")}, want{packages: "openvpn-openssl", choices: "openvpn"}},
		"installed":               {Request{Packages: words("openvpn"), Installed: words("mbedtls")}, want{packages: "openvpn-mbedtls", choices: "openvpn"}},
		"installed, asked for":    {Request{Packages: words("openvpn mbedtls")}, want{packages: "openvpn-mbedtls mbedtls", choices: "openvpn"}},
		"installed, replaced":     {Request{Packages: words("openvpn"), Installed: words("polarssl")}, want{packages: "openvpn-mbedtls", choices: "openvpn"}},
		"installed, becomes so":   {Request{Packages: words("polarssl openvpn")}, want{packages: "mbedtls openvpn-mbedtls", choices: "openvpn"}},
		"removed, not installed":  {Request{Packages: words("openvpn -mbedtls")}, want{packages: "openvpn-openssl -mbedtls", choices: "openvpn"}},
		"chosen":                  {Request{Packages: words("openvpn mbedtls"), Choices: map[string]string{"openvpn": "openvpn-wolfssl"}}, want{packages: "openvpn-wolfssl mbedtls", choices: "openvpn"}},
		"no longer the default":   {Request{Packages: words("libmicrohttpd")}, want{packages: "libmicrohttpd-no-ssl", choices: "libmicrohttpd"}},
		"old name chosen":         {Request{Packages: words("libmicrohttpd"), Choices: map[string]string{"libmicrohttpd": "libmicrohttpd"}}, want{packages: "libmicrohttpd", choices: "libmicrohttpd"}},
		"old name goes on":        {Request{Packages: words("stay")}, want{packages: "stay", choices: "stay"}},
		"undecided":               {Request{Packages: words("pick")}, want{packages: "pick", choices: "pick"}},
		"pattern":                 {Request{Packages: words("lang-old-de lang-old-pt-br lang-old-")}, want{packages: "lang-new-de lang-new-pt-br lang-old-"}},
		"name before pattern":     {Request{Packages: words("lang-old-xx")}, want{packages: "lang-none"}},
		"pattern after pattern":   {Request{Packages: words("lang-old-en lang-foo-en")}, want{dropped: "lang-foo-en lang-old-en"}},
		"target by pattern":       {Request{Target: "ath79/nand", Packages: words("by-target")}, want{packages: "for-ath79"}},
		"target and profile":      {Request{Target: "x86/64", Profile: "generic", Packages: words("by-target")}, want{packages: "for-x86"}},
		"other target":            {Request{Target: "x86/64", Profile: "other", Packages: words("by-target")}, want{packages: "for-others"}},
		"no target":               {Request{Packages: words("by-target")}, want{packages: "for-others"}},
		"before from":             {Request{To: "21.02.2", Packages: words("late early")}, want{packages: "late earlier"}},
		"after to":                {Request{To: "22.03.0", Packages: words("late early")}, want{packages: "later early"}},
		"point release":           {Request{From: "21.02.2", To: "21.02.4", Packages: words("late early polarssl")}, want{packages: "later early polarssl"}},
		"same version":            {Request{From: "21.02.4", Packages: words("late polarssl")}, want{packages: "late polarssl"}},
		"candidate is after":      {Request{From: "21.02.0-rc1", Packages: words("polarssl")}, want{packages: "polarssl"}},
		"branch snapshot":         {Request{From: "19.07-SNAPSHOT", Packages: words("chain-b polarssl")}, want{packages: "chain-b mbedtls"}},
		"added":                   {Request{Target: "ath79/generic", Profile: "device", Packages: words("a")}, want{packages: "a wanted", added: "wanted"}},
		"added, there":            {Request{Target: "ath79/generic", Profile: "device", Packages: words("wanted a")}, want{packages: "wanted a"}},
		"added, removed":          {Request{Target: "ath79/generic", Profile: "device", Packages: words("a -wanted")}, want{packages: "a -wanted"}},
		"added, not in the index": {Request{Target: "ath79/generic", Profile: "device", Packages: words("a"), Exists: indexOf("a")}, want{packages: "a"}},
		"removal of renamed":      {Request{Packages: words("-chain-a")}, want{packages: "-chain-d"}},
		"removal of split":        {Request{Packages: words("-kmod-foo")}, want{packages: "-kmod-foo-core -kmod-foo-usb"}},
		"removal of dropped":      {Request{Packages: words("-luci-app-diag-core")}, want{}},
		"removal of a choice":     {Request{Packages: words("-openvpn openvpn-wolfssl")}, want{packages: "-openvpn-openssl -openvpn-mbedtls openvpn-wolfssl"}},
		"removal overruled":       {Request{Packages: words("merge-a -merge-b")}, want{packages: "merged"}},
		"removal of itself":       {Request{Packages: words("a -a")}, want{packages: "a -a"}},
	} {
		t.Run(name, func(t *testing.T) {
			req := c.req
			req.Distro = "mesh"
			if req.From == "" {
				req.From = "17.01.4"
			}
			if req.To == "" {
				req.To = "21.02.4"
			}
			res := apply(t, set, req)
			var added, choices []string
			for _, a := range res.Added {
				added = append(added, a.New...)
			}
			for _, ch := range res.Choices {
				choices = append(choices, ch.Old)
			}
			// chain-y is added to everything that passes 21.02
			rest := func(names []string) string {
				return strings.TrimSpace(strings.ReplaceAll(" "+strings.Join(names, " ")+" ", " chain-y ", " "))
			}
			got := want{rest(res.Packages), strings.Join(res.Dropped(), " "), rest(added), strings.Join(choices, " ")}
			if d := cmp.Diff(c.want, got, cmp.AllowUnexported(want{})); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

func TestUnknownOrigin(t *testing.T) {
	set := loaded(t, map[string]string{
		"19.07": `
gone: {now: {default: true}}
both: {two: {default: true}}
always: {ever: {default: true}, unconditional: true}
add: [{packages: [early]}]
`,
		"21.02": `
now: {then: {default: true}}
add: [{packages: [here]}]
`,
	})
	for name, c := range map[string]struct {
		req  Request
		want string
	}{
		"index known":       {Request{Exists: indexOf("both", "then", "ever", "here", "always")}, "then both ever here"},
		"index unknown":     {Request{}, "gone both ever here"},
		"snapshot":          {Request{From: "SNAPSHOT"}, "gone both ever here"},
		"downgrade":         {Request{From: "22.03.1"}, "gone both ever here"},
		"known":             {Request{From: "18.06.1"}, "then two ever early here"},
		"later release":     {Request{To: "22.03.0", Exists: indexOf("both", "now")}, "now both ever"},
		"halfway":           {Request{From: "19.07.1"}, "gone both always here"},
		"snapshot of known": {Request{From: "SNAPSHOT", FromRevision: "r1-abc", Exists: indexOf("both", "then")}, "then both ever"},
	} {
		t.Run(name, func(t *testing.T) {
			req := c.req
			req.Distro, req.Packages = "mesh", words("gone both always")
			if req.To == "" {
				req.To = "21.02.1"
			}
			if got := strings.Join(apply(t, set, req).Packages, " "); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// A branch's releases share feeds: what the older one was installed with may be
// gone from them when the newer one is built.
func TestWithinABranch(t *testing.T) {
	set := loaded(t, map[string]string{
		"19.07": "before: {late: {default: true}}\n",
		"21.02": "old: {new: {default: true}}\nalways: {ever: {default: true}, unconditional: true}\nadd: [{packages: [here]}]\n",
	})
	for name, c := range map[string]struct {
		exists func(string) bool
		want   string
	}{
		"gone from the feeds": {indexOf("new", "ever", "here", "late"), "new ever before"},
		"still there":         {indexOf("old", "always", "new", "ever", "here"), "old always before"},
		"index unknown":       {nil, "old always before"},
	} {
		req := Request{Distro: "mesh", From: "21.02.0", To: "21.02.1", Packages: words("old always before"), Exists: c.exists}
		if got := strings.Join(apply(t, set, req).Packages, " "); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestSnapshotsArePlacedByRevision(t *testing.T) {
	set := loaded(t, map[string]string{
		"19.07":    "branch_off: 1000\na1: {a2: {default: true}}\n",
		"21.02":    "branch_off: 2000\nb1: {b2: {default: true}, revision: 1500}\nc1: {c2: {default: true}}\n",
		"SNAPSHOT": "d1: {d2: {default: true}, revision: 2500}\ne1: {e2: {default: true}, from: r2400, to: r2600}\n",
	})
	for _, c := range []struct{ from, fromRev, to, toRev, want string }{
		{"SNAPSHOT", "r900-aa", "SNAPSHOT", "r2550", "a1 b2 c2 d2 e2"}, // of a1 it is not known when before r1000 it happened
		{"SNAPSHOT", "r2100", "SNAPSHOT", "r2450", "a1 b1 c1 d1 e2"},
		{"SNAPSHOT", "r2410", "SNAPSHOT", "r2550", "a1 b1 c1 d2 e1"},
		{"SNAPSHOT", "r1200", "SNAPSHOT", "r2550", "a1 b2 c1 d2 e2"},
		{"SNAPSHOT", "r1600", "SNAPSHOT", "r2450", "a1 b1 c1 d1 e2"},
		{"SNAPSHOT", "r1600", "21.02.0", "", "a1 b1 c1 d1 e1"},
		{"SNAPSHOT", "r1200", "21.02.0", "", "a1 b2 c1 d1 e1"},
		{"18.06.0", "", "SNAPSHOT", "r2450", "a2 b2 c2 d1 e2"},
		{"18.06.0", "", "SNAPSHOT", "r2700", "a2 b2 c2 d2 e1"},
		{"18.06.0", "", "SNAPSHOT", "", "a2 b2 c2 d2 e2"},
		{"21.02.0", "", "SNAPSHOT", "r2500", "a1 b1 c1 d2 e2"},
	} {
		got := strings.Join(apply(t, set, Request{Distro: "mesh", From: c.from, FromRevision: c.fromRev, To: c.to, ToRevision: c.toRev,
			Packages: words("a1 b1 c1 d1 e1")}).Packages, " ")
		if got != c.want {
			t.Errorf("%s %s to %s %s: got %q, want %q", c.from, c.fromRev, c.to, c.toRev, got, c.want)
		}
	}
}

func TestChoicesAreChecked(t *testing.T) {
	set := loaded(t, map[string]string{"21.02": theProposal})
	req := Request{Distro: "mesh", From: "19.07.0", To: "21.02.0", Packages: words("openvpn"), Choices: map[string]string{"openvpn": "openvpn-nossl"}}
	_, err := set.Apply(req)
	var told *imagebuilder.Error
	if !errors.As(err, &told) || told.Code != imagebuilder.CodeMalformed ||
		told.Detail != `choices: "openvpn-nossl" cannot stand for openvpn; openvpn-openssl, openvpn-mbedtls or openvpn-wolfssl can.` {
		t.Errorf("got %v", err)
	}
	req.Choices = map[string]string{"busybox": "toybox"}
	if res := apply(t, set, req); !cmp.Equal(res.Unused, []string{"busybox"}) {
		t.Errorf("unused: %q", res.Unused)
	}
}

func TestVersionsAreOrdered(t *testing.T) {
	names := words("15.05.1 17.01 17.01.0-rc1 17.01.0-rc2 17.01.0 17.01.7 17.01-SNAPSHOT 18.06 18.06.9 24.10 24.10.0-rc7 24.10.0 24.10.10 25.12.0 v2025.1 2025.1.1 SNAPSHOT")
	for i, a := range names {
		for j, b := range names {
			got := parseVersion(a).compare(parseVersion(b))
			if (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("%s and %s: %d", a, b, got)
			}
		}
	}
	for _, c := range []struct {
		v, release string
		want       bool
	}{{"24.10.4", "24.10", true}, {"24.10", "24.10", true}, {"24.10-SNAPSHOT", "24.10", true}, {"24.10.0-rc1", "24.10", true},
		{"24.1.4", "24.10", false}, {"SNAPSHOT", "24.10", false}, {"SNAPSHOT", "SNAPSHOT", true}, {"24.10.4", "24.10.4", true}, {"24.10", "24.10.4", false}} {
		if got := parseVersion(c.v).within(parseVersion(c.release)); got != c.want {
			t.Errorf("%s within %s: %v", c.v, c.release, got)
		}
	}
}

func TestSplitsOfSplitsStaySmall(t *testing.T) {
	var b strings.Builder
	const depth = 60 // two to its power steps, if each way were gone
	for i := range depth {
		for _, side := range []string{"a", "b"} {
			fmt.Fprintf(&b, "%s%d: {all: [a%d, b%d]}\n", side, i, i+1, i+1)
		}
	}
	set := loaded(t, map[string]string{"21.02": b.String()})
	req := Request{Distro: "mesh", From: "19.07.0", To: "21.02.0", Packages: words("a0 -b0")}
	if got := strings.Join(apply(t, set, req).Packages, " "); got != "a60 b60" {
		t.Errorf("got %q", got)
	}
}
