package feeds_test

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"attendant/imagebuilder"
	"attendant/imagebuilder/feeds"
)

func itoa(i int) string { return strconv.Itoa(i) }

// router is a wish for a router of 23.05 as the real indexes can build it.
func router(requested ...string) feeds.Wish {
	return feeds.Wish{
		Default: strings.Fields("base-files ca-bundle dropbear fstools libc libgcc libustream-mbedtls logd mtd netifd opkg " +
			"uci uclient-fetch urandom-seed urngd busybox procd procd-ujail procd-seccomp dnsmasq firewall4 nftables " +
			"kmod-nft-offload odhcp6c odhcpd-ipv6only ppp ppp-mod-pppoe"),
		Device:    []string{"kmod-usb2", "-ppp"},
		Requested: requested,
	}
}

func TestOrderOfTheMakefile(t *testing.T) {
	for _, tt := range []struct {
		wish feeds.Wish
		want string
	}{
		{feeds.Wish{}, "kernel"},
		{feeds.Wish{Default: []string{"b", "a", "b"}, Device: []string{"c", "-a"}}, "b c kernel"},
		{feeds.Wish{Default: []string{"b", "a"}, Requested: []string{"z", "a", "y"}}, "z a y a b kernel"},
		{feeds.Wish{Default: []string{"b", "a"}, Requested: []string{"z", "-a", "-z", "-none"}}, "b kernel"},
		{feeds.Wish{Device: []string{"-a"}, Requested: []string{"a"}}, "a kernel"},
		{feeds.Wish{Requested: []string{"-kernel"}}, ""},
	} {
		if got := strings.Join(tt.wish.Packages(), " "); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.wish, got, tt.want)
		}
	}
}

func TestSolveOpkg(t *testing.T) {
	for _, tt := range []struct {
		name, feed, wish string
		want             string // selected names and versions, without libc and kernel
		problems         string // kind, package and detail of each
		doubt            string // part of the first
	}{
		{name: "what it needs comes too", feed: "Package: a\nDepends: b\n\nPackage: b\nDepends: c\n\nPackage: c", wish: "a", want: "a b c"},
		{name: "in a circle", feed: "Package: a\nDepends: b\n\nPackage: b\nDepends: a", wish: "b", want: "a b"},
		{name: "removed, but needed", feed: "Package: a\nDepends: b\n\nPackage: b", wish: "a b -b", want: "a b"},
		{name: "removed", feed: "Package: a\n\nPackage: b", wish: "a b -b -c", want: "a"},
		{name: "without its ABI suffix", feed: "Package: lib7\nABIVersion: 7\nProvides: lib", wish: "lib", want: "lib7"},
		{name: "with its ABI suffix", feed: "Package: lib7\nABIVersion: 7\nProvides: lib", wish: "lib7", want: "lib7"},
		{name: "the newest version", feed: "Package: a\nVersion: 1.9\n\nPackage: a\nVersion: 1.10\n\nPackage: a\nVersion: 1.10~rc1", wish: "a", want: "a=1.10"},
		{name: "a version is enough", feed: "Package: a\nDepends: b (>= 1.5)\n\nPackage: b\nVersion: 1.10", wish: "a", want: "a b=1.10"},
		{name: "<< is met by an equal version", feed: "Package: a\nDepends: b (<< 1.5)\n\nPackage: b\nVersion: 1.5", wish: "a", want: "a b=1.5"},
		{name: "a bound on a virtual is one on its provider", feed: "Package: a\nDepends: v (>= 3)\n\nPackage: b\nVersion: 3\nProvides: v\n\nPackage: c\nVersion: 2\nProvides: v", wish: "a", want: "a b=3"},
		{name: "the last provider by name", feed: "Package: b\nProvides: v\n\nPackage: c\nProvides: v\n\nPackage: a\nDepends: v", wish: "a", want: "a c"},
		{name: "a provider that is asked for later", feed: "Package: b\nProvides: v\n\nPackage: c\nProvides: v\n\nPackage: a\nDepends: v", wish: "a b", want: "a b"},
		{name: "a provider that is there", feed: "Package: b\nProvides: v\n\nPackage: c\nProvides: v\n\nPackage: a\nDepends: v\n\nPackage: d\nDepends: b", wish: "d a", want: "a b d"},
		{name: "the package of that name before a provider", feed: "Package: v\n\nPackage: w\nProvides: v\n\nPackage: a\nDepends: v", wish: "a", want: "a v"},
		{name: "the first provider of a name asked for", feed: "Package: c\nProvides: v\n\nPackage: b\nProvides: v", wish: "v", want: "b"},
		{name: "a held provider", feed: "Package: b\nProvides: v\n\nPackage: c\nProvides: v\nStatus: unknown hold not-installed", wish: "v", want: "c"},
		{name: "a provider for the architecture before one for all", feed: "Package: b\nArchitecture: all\nProvides: v\n\nPackage: c\nProvides: v", wish: "v", want: "c"},
		{name: "of alternatives the first", feed: "Package: a\nDepends: x | b | c\n\nPackage: b\n\nPackage: c", wish: "a", want: "a b"},
		{name: "of alternatives the one that is there", feed: "Package: a\nDepends: b | c\n\nPackage: b\n\nPackage: c", wish: "c a", want: "a c"},
		{name: "another architecture is nothing", feed: "Package: a\nArchitecture: mips_24kc", wish: "a",
			problems: "missing a: a is in no feed."},
		{name: "in no feed", feed: "Package: tcpdump", wish: "tcpdmup",
			problems: "missing tcpdmup (tcpdump): tcpdmup is in no feed."},
		{name: "needs what is in no feed", feed: "Package: a\nDepends: b\n\nPackage: b\nDepends: libfoo (>= 2)", wish: "a",
			problems: "missing libfoo: a needs b, which needs libfoo (>= 2), which is in no feed."},
		{name: "needs another version", feed: "Package: a\nDepends: b (= 2)\n\nPackage: b\nVersion: 1", wish: "a",
			problems: "version b: a needs b (= 2); the feeds have b 1."},
		{name: "all providers are impossible", feed: "Package: a\nDepends: v\n\nPackage: b\nProvides: v\nDepends: x\n\nPackage: c\nProvides: v\nDepends: y", wish: "a",
			problems: "missing x: a needs b, which needs x, which is in no feed."},
		{name: "one provider is impossible", feed: "Package: a\nDepends: v\n\nPackage: b\nProvides: v\n\nPackage: 0\nProvides: v\nDepends: y", wish: "a", want: "a b", doubt: "can never be installed"},
		{name: "the rest is still told", feed: "Package: a", wish: "a x", want: "a", problems: "missing x: x is in no feed."},
		{name: "declared by the second", feed: "Package: a\n\nPackage: b\nConflicts: a", wish: "a b", want: "a",
			problems: "conflict b: b and a exclude one another: leave one of them out."},
		{name: "declared by the first", feed: "Package: a\n\nPackage: b\nConflicts: a", wish: "b a", want: "a b",
			problems: "conflict b: b and a exclude one another: leave one of them out."},
		{name: "with what one needs", feed: "Package: a\nDepends: b\n\nPackage: b\nConflicts: c\n\nPackage: c", wish: "c a", want: "c",
			problems: "conflict b: b (which a needs) and c exclude one another: leave one of them out."},
		{name: "with what is provided", feed: "Package: a\nProvides: v\n\nPackage: b\nConflicts: v", wish: "a b", want: "a b",
			problems: "conflict b: b and a exclude one another: leave one of them out."},
		{name: "with what it provides itself", feed: "Package: b\nProvides: v\nConflicts: v", wish: "b", want: "b"},
		{name: "with an older version only", feed: "Package: a\nVersion: 2\n\nPackage: b\nConflicts: a (<< 2.0.1~)\n\nPackage: c\nConflicts: a (<< 1)", wish: "a c", want: "a=2 c"},
		{name: "a stand-in beside the original", feed: "Package: dnsmasq\n\nPackage: dnsmasq-full\nProvides: dnsmasq", wish: "dnsmasq dnsmasq-full", want: "dnsmasq dnsmasq-full",
			problems: "conflict dnsmasq-full: dnsmasq-full stands in for dnsmasq, and most likely has the same files, which opkg refuses: leave one of them out.",
			doubt:    "cannot be told from the package indexes alone"},
		{name: "a stand-in", feed: "Package: dnsmasq\n\nPackage: dnsmasq-full\nProvides: dnsmasq", wish: "dnsmasq-full -dnsmasq", want: "dnsmasq-full"},
		{name: "made for another kernel", feed: "Package: a\nDepends: kernel (=5-a)\n\nPackage: b\nDepends: kernel (=5-a)\n\nPackage: c\nDepends: kernel (=5-b)", wish: "a c", want: "a",
			problems: "version kernel: c is made for another kernel (5-b) than this image has (5-a)."},
		{name: "made for what may be another kernel", feed: "Package: a\nDepends: kernel (=5-a)\n\nPackage: b\nDepends: kernel (=5-a)\n\nPackage: c\nDepends: kernel (=5-b)", wish: "c",
			problems: "version kernel: c is made for another kernel (5-b) than this image has (5-a).",
			doubt:    "can never be installed"},
		{name: "the kernel is known", feed: "Package: kernel\nVersion: 5-a\n\nPackage: c\nDepends: kernel (=5-b)", wish: "c",
			problems: "version kernel: c is made for another kernel (5-b) than this image has (5-a)."},
		{name: "a virtual whose second provider is there", feed: "Package: a\nProvides: v\n\nPackage: b\nProvides: v", wish: "b v", want: "b",
			problems: "other v: v is provided by b, which is selected already, and opkg refuses to be asked for both: leave v out."},
		{name: "a virtual whose first provider is there", feed: "Package: a\nProvides: v\n\nPackage: b\nProvides: v", wish: "a v", want: "a"},
		{
			name: "a conflict that leads to packages that need one another",
			feed: "Package: a\nDepends: h\n\nPackage: h\nDepends: a\n\nPackage: b\nDepends: a\nConflicts: a\n\nPackage: c", wish: "b", want: "a b h",
			problems: "conflict b: b and a (which b needs) exclude one another: leave one of them out.",
		},
		{name: "recommends", feed: "Package: a\nRecommends: b\n\nPackage: b", wish: "a", want: "a", doubt: "not fully understood"},
		{name: "a file", feed: "Package: a", wish: "a http://localhost/x.ipk", want: "a", doubt: "is no package's name"},
		{name: "an older version gives way", feed: "Package: a\nDepends: b (= 1), c\n\nPackage: b\nVersion: 1\n\nPackage: b\nVersion: 2\n\nPackage: c\nDepends: b (= 2)", wish: "a", want: "a b=2 c", doubt: "another version of itself"},
		{name: "an entry that cannot be read", feed: "Package: a\nVersion: 1 2", wish: "a", problems: "missing a: a is in no feed.", doubt: "cannot be read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := small(t, tt.feed).Solve(feeds.Wish{Requested: strings.Fields(tt.wish)})
			var got []string
			for _, p := range s.Selected {
				switch {
				case p.Feed == nil:
				case p.Version == "1":
					got = append(got, p.Name)
				default:
					got = append(got, p.Name+"="+p.Version)
				}
			}
			got = slices.DeleteFunc(got, func(n string) bool { return strings.HasPrefix(n, "kernel") })
			if strings.Join(got, " ") != tt.want {
				t.Errorf("selected %v, want %s", got, tt.want)
			}
			if text := problems(s); text != tt.problems {
				t.Errorf("problems:\n%s\nwant\n%s", text, tt.problems)
			}
			if s.Certain != (tt.doubt == "") || s.Certain != (len(s.Doubts) == 0) || !s.Certain && !strings.Contains(s.Doubts[0], tt.doubt) {
				t.Errorf("certain %v, doubts %q; want %q", s.Certain, s.Doubts, tt.doubt)
			}
		})
	}
}

func problems(s *feeds.Solution) string {
	var lines []string
	for _, p := range s.Problems {
		near := ""
		if len(p.Nearest) > 0 {
			near = " (" + strings.Join(p.Nearest, " ") + ")"
		}
		lines = append(lines, string(p.Kind)+" "+p.Package+near+": "+p.Detail)
	}
	return strings.Join(lines, "\n")
}

func TestSolutionOfARelease(t *testing.T) {
	u := feeds.NewUniverse(feeds.Opkg, arch, release(t))
	s := u.Solve(router("luci", "-dropbear"))
	if !s.Certain || len(s.Problems) > 0 || len(s.Doubts) > 0 {
		t.Fatalf("certain %v, problems:\n%s\ndoubts %q", s.Certain, problems(s), s.Doubts)
	}
	reasons := map[string]string{}
	for _, p := range s.Selected {
		reasons[p.Name] = p.Reason
	}
	for name, want := range map[string]string{"luci": "", "dnsmasq-full": "", "libgcc1": "", "libubox20230523": "libubus", "luci-base": "luci-mod-admin-full"} {
		if got, ok := reasons[name]; !ok || got != want {
			t.Errorf("%s is there (%v) because of %q, want %q", name, ok, got, want)
		}
	}
	if _, ok := reasons["dropbear"]; ok {
		t.Error("dropbear is there though it was taken out")
	}
	m := s.Manifest()
	if m["libubox"] != "2023-05-23-75a3b870-1" || m["kernel"] != "5.15.137-1-40d241266c049468fd1eeac34d3457e0" || m["libubox20230523"] != "" {
		t.Errorf("manifest: libubox %q, kernel %q", m["libubox"], m["kernel"])
	}
	if s.Download() < 1<<20 || s.Installed() < s.Download()/2 {
		t.Errorf("sizes %d, %d", s.Download(), s.Installed())
	}
}

func TestRepairs(t *testing.T) {
	wish := func(requested string) feeds.Wish {
		return feeds.Wish{Default: []string{"dnsmasq"}, Device: []string{"old-driver"}, Requested: strings.Fields(requested)}
	}
	u := small(t, "Package: dnsmasq\n\nPackage: dnsmasq-full\nProvides: dnsmasq\n\nPackage: old-driver\n\nPackage: new-driver\nConflicts: old-driver\n\n"+
		"Package: tcpdump\n\nPackage: tcpdump-mini\n\nPackage: broken\nDepends: no-such\n\nPackage: user\nDepends: broken\n\nPackage: a\n\nPackage: b\nConflicts: a\n\nPackage: new-name")
	renames := map[string][]string{"old-name": {"gone", "new-name"}}
	for _, tt := range []struct {
		name, requested string
		want            []string
	}{
		{"nothing to repair", "tcpdump", nil},
		{"a rename", "a old-name", []string{"Ask for new-name instead of old-name. [a new-name]", "Leave out old-name. [a]"}},
		{"a slip", "tcpdmup a", []string{"Ask for tcpdump instead of tcpdmup. [tcpdump a]", "Leave out tcpdmup. [a]"}},
		{"impossible", "user a", []string{"Leave out user. [a]"}},
		{"a default in the way", "a dnsmasq-full", []string{"Take out dnsmasq, which is there by default. [a dnsmasq-full -dnsmasq]", "Leave out dnsmasq-full. [a]"}},
		{"the device's in the way", "new-driver", []string{"Take out old-driver, which is there by default. [new-driver -old-driver]", "Leave out new-driver. []"}},
		{"two that were asked for", "a b", []string{"Leave out b. [a]", "Leave out a. [b]"}},
		{"several", "tcpdmup nothing-like-it dnsmasq-full", []string{
			"Ask for tcpdump instead of tcpdmup. Leave out nothing-like-it. Take out dnsmasq, which is there by default. [tcpdump dnsmasq-full -dnsmasq]",
			"Leave out tcpdmup. Leave out nothing-like-it. Leave out dnsmasq-full. []",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := wish(tt.requested)
			var got []string
			for _, r := range u.Repairs(w, u.Solve(w), func(name string) []string { return renames[name] }) {
				got = append(got, r.Detail+" ["+strings.Join(r.Packages, " ")+"]")
				again := w
				again.Requested = r.Packages
				if s := u.Solve(again); len(s.Problems) > 0 {
					t.Errorf("%s: does not help: %s", r.Detail, problems(s))
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestLighten(t *testing.T) {
	u := small(t, "Package: base\nSize: 100\n\nPackage: shared\nSize: 500\n\nPackage: map\nSize: 900\nDepends: shared\n\nPackage: viewer\nSize: 50\nDepends: shared\n\n"+
		"Package: web\nSize: 300\nDepends: base\n\nPackage: tiny\nSize: 1")
	for _, tt := range []struct {
		requested string
		limit     int64
		want      []string
	}{
		{"map tiny", 200, []string{"Leave out map. [tiny]"}},
		{"map web tiny", 1600, []string{"Leave out map. [web tiny]", "Leave out web. [map tiny]"}},
		// shared goes only with both.
		{"map viewer web", 800, []string{"Leave out map. Leave out web. [viewer]"}},
		{"map viewer", 110, []string{"Leave out map. Leave out viewer. []"}},
		{"base tiny", 50, nil},
	} {
		w := feeds.Wish{Default: []string{"base"}, Requested: strings.Fields(tt.requested)}
		var got []string
		for _, r := range u.Lighten(w, u.Solve(w), func(_ feeds.Wish, s *feeds.Solution) bool { return s.Download() <= tt.limit }) {
			got = append(got, r.Detail+" ["+strings.Join(r.Packages, " ")+"]")
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s in %d (-want +got):\n%s", tt.requested, tt.limit, diff)
		}
	}
}

func TestAWishForAllAndOneForNothingKnown(t *testing.T) {
	u := feeds.NewUniverse(feeds.Opkg, arch, release(t))
	everything, _ := u.Search("", 0, 5000)
	s := u.Solve(feeds.Wish{Requested: names(everything)})
	if len(s.Selected) < 3000 || len(s.Problems) == 0 {
		t.Errorf("everything: %d selected, %d problems", len(s.Selected), len(s.Problems))
	}
	w := router()
	for i := range 5000 {
		w.Requested = append(w.Requested, "luci-app-unknown"+itoa(i))
	}
	s = u.Solve(w)
	kinds := map[imagebuilder.ProblemKind]int{}
	for _, p := range s.Problems {
		kinds[p.Kind]++
	}
	if !maps.Equal(kinds, map[imagebuilder.ProblemKind]int{imagebuilder.ProblemMissing: 5000}) || !s.Certain {
		t.Errorf("nothing known: %v, certain %v", kinds, s.Certain)
	}
	if r := u.Repairs(w, s, nil); len(r) == 0 || len(r[len(r)-1].Packages) > 16 {
		t.Errorf("%d repairs", len(r))
	}
}
