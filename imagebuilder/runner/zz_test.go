package runner
import ("testing";"path/filepath";"attendant/imagebuilder/sandbox";"time";"os/exec";"os";"context")
func TestZZ(t *testing.T) {
	dir, server := sampleUpstream(t)
	builder := unpack(t, filepath.Join(dir, "releases/24.10.4/targets/ath79/generic"))
	for i:=0;i<3;i++{
	for _, m := range []sandbox.Method{sandbox.Overlay, sandbox.Copy} {
		r := newRunner(t, Options{Builders: theBuilder(builder), UpstreamURL: server.URL, Method: m})
		if i==0 { r.Prepare(t.Context(), builder) }
		b := time.Now()
		built, err := r.Build(t.Context(), job(request("tplink_archer-c7-v5", "cowsay")), newWitness())
		if err != nil { t.Fatal(err) }
		t.Log(m, time.Since(b), built.Stages)
	}
	tree := filepath.Join(t.TempDir(), "tree")
	sandbox.CopyTree(builder, tree)
	feeds, _ := os.ReadFile(filepath.Join(tree, "repositories.conf"))
	os.WriteFile(filepath.Join(tree, "repositories.conf"), []byte(rewriteFeeds(string(feeds), []string{"https://downloads.sample.example"}, server.URL)), 0o644)
	for _, a := range [][]string{{"manifest"},{"image","BIN_DIR="+t.TempDir()}} {
		b := time.Now()
		c := exec.Command("make", append(a, "PROFILE=tplink_archer-c7-v5", "PACKAGES=cowsay")...); c.Dir=tree; c.Env=[]string{"PATH="+DefaultPath}
		c.Run(); t.Log("hand", a[0], time.Since(b))
	}
	tree2 := filepath.Join(t.TempDir(), "tree")
	sandbox.CopyTree(tree, tree2)
	os.RemoveAll(filepath.Join(tree2,"dl"))
	for _, a := range [][]string{{"manifest"},{"image","BIN_DIR="+t.TempDir()}} {
		b := time.Now()
		c := sandbox.Command{Args: append([]string{"make"}, append(a, "PROFILE=tplink_archer-c7-v5", "PACKAGES=cowsay")...), Dir: tree2, Env: []string{"PATH="+DefaultPath}}
		c.Run(context.Background()); t.Log("sandbox nolayer", a[0], time.Since(b))
	}
	}
}
