package runner

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"attendant/imagebuilder"
	"attendant/imagebuilder/feeds"
)

func TestConflict(t *testing.T) {
	relations := feeds.ParseRelations
	tests := []struct {
		name     string
		manifest imagebuilder.Manifest
		chosen   []feeds.Package
		want     []string
	}{
		{"none", imagebuilder.Manifest{"a": "1", "b": "1"}, []feeds.Package{{Name: "a", Provides: relations("x")}}, nil},
		{"by name", imagebuilder.Manifest{"a": "1", "b": "1"}, []feeds.Package{{Name: "b", Conflicts: relations("a")}}, []string{"a", "b"}},
		{"the other is not there", imagebuilder.Manifest{"b": "1"}, []feeds.Package{{Name: "b", Conflicts: relations("a")}}, nil},
		{"with what another provides", imagebuilder.Manifest{"wpad": "1", "hostapd": "1"},
			[]feeds.Package{{Name: "wpad", Conflicts: relations("ap")}, {Name: "hostapd", Provides: relations("ap")}}, []string{"hostapd", "wpad"}},
		{"with what it provides itself", imagebuilder.Manifest{"wpad": "1"},
			[]feeds.Package{{Name: "wpad", Provides: relations("ap"), Conflicts: relations("ap")}}, nil},
		{"with itself", imagebuilder.Manifest{"a": "1"}, []feeds.Package{{Name: "a", Conflicts: relations("a")}}, nil},
		{"ABI name", imagebuilder.Manifest{"liba": "1", "b": "1"},
			[]feeds.Package{{Name: "liba7", ABIVersion: "7", Provides: relations("liba")}, {Name: "b", Conflicts: relations("liba7")}}, []string{"b", "liba"}},
		{"bound to a version", imagebuilder.Manifest{"a": "1", "b": "1"}, []feeds.Package{{Name: "b", Conflicts: relations("a (<< 1)")}}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, conflict(tt.manifest, tt.chosen)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
