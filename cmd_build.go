package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"attendant/imagebuilder"
)

type buildCmd struct {
	requestFlags

	Resume   string `name:"resume" placeholder:"HASH" group:"request" help:"Go on with an earlier request instead of a new one."`
	Output   string `name:"output" short:"o" placeholder:"DIR" default:"." group:"result" help:"Folder for the image. Default: the current one."`
	FileType string `name:"file-type" placeholder:"TYPE" group:"result" help:"Which image: sysupgrade, factory, combined-efi, …; all. Default: what an upgrade needs."`
	All      bool   `name:"all" group:"result" help:"Download all images."`
	JSON     bool   `name:"json" group:"result" help:"Print the result as JSON."`
	Verbose  bool   `name:"verbose" short:"v" group:"result" help:"On failure, show what the ImageBuilder said."`
}

// Help is kong's longer text for a command.
func (*buildCmd) Help() string {
	return `Sends a request to an attended-sysupgrade server (attendant, or another one with the same API), waits until the image is built, downloads it and checks its SHA-256. A file has its name only when it is whole and right. Broken connections, a restart of the server and a full queue are waited out; the same command again finds the same image.

    attendant build --server http://192.168.1.2:8080 --version 24.10.4 --target ath79/generic --profile tplink_archer-c7-v5 --packages "luci -ppp" -o images`
}

func (c *buildCmd) Run(p *program) error {
	base, err := c.base(p)
	if err != nil {
		return err
	}
	client := newImageClient(base, newScreen(p.stderr))
	return c.fetch(p, client)
}

// fetch has the image built and downloads it.
func (c *buildCmd) fetch(p *program, client *imageClient) error {
	var body []byte
	if c.Resume == "" {
		request, err := c.request()
		if err != nil {
			return err
		}
		if body, err = json.Marshal(request); err != nil {
			return fmt.Errorf("write the request: %w", err)
		}
	} else if !imagebuilder.ValidHash(c.Resume) && !plainName(c.Resume) {
		return usagef("--resume: %.100q is no request hash", c.Resume)
	}
	info, err := os.Stat(c.Output)
	if errors.Is(err, os.ErrNotExist) {
		err = os.MkdirAll(c.Output, 0o755)
	} else if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no folder", c.Output)
	}
	if err != nil {
		return fmt.Errorf("make the folder for the image: %w", err)
	}

	reply, err := client.await(p.ctx, body, c.Resume)
	client.screen.finish()
	if err != nil {
		return c.explain(p, client, err)
	}
	images, note, err := chooseImages(reply.Images, c.Filesystem, c.FileType, c.All)
	if err != nil {
		return err
	}
	if note != "" {
		client.screen.note("%s", note)
	}
	var got []downloaded
	for _, image := range images {
		file, err := client.download(p.ctx, reply.BinDir, image, c.Output)
		client.screen.finish()
		if err != nil {
			return c.explain(p, client, err)
		}
		got = append(got, *file)
	}
	if c.JSON {
		return json.NewEncoder(p.stdout).Encode(map[string]any{"request_hash": reply.RequestHash, "version_code": reply.VersionCode, "files": got})
	}
	for _, file := range got {
		fmt.Fprintf(p.stdout, "%s  %d bytes  sha256 %s\n", file.Path, file.Size, file.SHA256)
	}
	return nil
}

// explain adds to a failure what the user can do.
func (c *buildCmd) explain(p *program, client *imageClient, err error) error {
	var failed *buildFailure
	switch {
	case errors.As(err, &failed):
		if failed.Stderr == "" && failed.Stdout == "" {
			break
		}
		if !c.Verbose {
			client.screen.note("(-v shows what the ImageBuilder said)")
			break
		}
		said := failed.Stderr
		if strings.TrimSpace(said) == "" {
			said = failed.Stdout
		}
		client.screen.note("The ImageBuilder said:\n%s", indentEnd(said, 40))
	case errors.Is(err, context.Canceled) || p.ctx.Err() != nil:
		if client.hash == "" {
			client.screen.note("Stopped before the server had accepted the request.")
			return errTold
		}
		client.screen.note("Stopped. The server goes on. To get the image later, repeat the command, or:\n  %s", c.resumeCommand(client))
		return errTold
	case client.hash != "":
		client.screen.note("To go on later, repeat the command, or:\n  %s", c.resumeCommand(client))
	}
	return err
}

func (c *buildCmd) resumeCommand(client *imageClient) string {
	command := "attendant build --server " + client.base + " --resume " + client.hash
	if c.Output != "." {
		command += " -o " + shellWord(c.Output)
	}
	if c.FileType != "" {
		command += " --file-type " + shellWord(c.FileType)
	}
	if c.Filesystem != "" {
		command += " --filesystem " + shellWord(c.Filesystem)
	}
	if c.All {
		command += " --all"
	}
	return command
}

func shellWord(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// indentEnd returns the last lines of a text, indented and without anything
// that a terminal would take for a command.
func indentEnd(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(all) > lines {
		all = append([]string{"…"}, all[len(all)-lines:]...)
	}
	for i := range all {
		all[i] = "  " + printable(all[i])
	}
	return strings.Join(all, "\n")
}

// printable takes control characters out of what a server has sent.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, s)
}

// plainName tells whether s is a file name that stays in its folder and shows
// up in listings.
func plainName(s string) bool {
	return s != "" && len(s) <= 255 && s[0] != '.' && s[0] != '-' && filepath.Base(s) == s && printable(s) == s &&
		!strings.ContainsAny(s, `\:`)
}

const fileTypeAll = "all"

// upgradeTypes are the image types that upgrade a running system, the better
// ones first, in the ImageBuilder's words.
var upgradeTypes = [][]string{{"sysupgrade"}, {"combined", "combined-efi"}, {"sdcard"}}

// chooseImages picks what a client on the device would take: of the wanted
// file system, or squashfs, the sysupgrade image, a disk image, or the only
// one that is neither for first installation nor a part of others. A PC starts
// by BIOS or by EFI, which only it knows: it gets both images, and a note says
// so.
func chooseImages(images []imagebuilder.Image, filesystem, fileType string, all bool) (chosen []imagebuilder.Image, note string, err error) {
	for _, image := range images {
		if !plainName(image.Name) {
			return nil, "", fmt.Errorf("the server names an image %.100q, which is no file name", image.Name)
		}
	}
	if all || fileType == fileTypeAll {
		chosen = images
	} else {
		candidates := ofFilesystem(images, filesystem)
		if fileType != "" {
			chosen = ofTypes(candidates, fileType)
		} else {
			chosen = forUpgrade(candidates)
		}
	}
	if len(chosen) == 0 {
		var have []string
		for _, image := range images {
			have = append(have, fmt.Sprintf("%s (%s %s)", image.Name, printable(image.Filesystem), printable(image.Type)))
		}
		if len(have) == 0 {
			return nil, "", errors.New("the image was built, but the server names no file of it")
		}
		return nil, "", fmt.Errorf("none of the images that were built is the wanted one; choose by --file-type or --filesystem, or take --all:\n  %s", strings.Join(have, "\n  "))
	}
	if fileType == "" && !all && len(chosen) > 1 {
		note = "This device starts by BIOS (combined) or by EFI (combined-efi): here are the images for both. --file-type takes one of them."
	}
	return chosen, note, nil
}

// ofFilesystem returns the images with a file system; "" prefers squashfs.
func ofFilesystem(images []imagebuilder.Image, filesystem string) []imagebuilder.Image {
	pick := func(name string) (found []imagebuilder.Image, exact bool) {
		for _, image := range images {
			if image.Filesystem == name || image.Filesystem == "" {
				found = append(found, image)
				exact = exact || image.Filesystem == name
			}
		}
		return found, exact
	}
	if filesystem != "" {
		found, _ := pick(filesystem)
		return found
	}
	if found, exact := pick("squashfs"); exact {
		return found
	}
	return images
}

func ofTypes(images []imagebuilder.Image, types ...string) (found []imagebuilder.Image) {
	for _, t := range types {
		for _, image := range images {
			if image.Type == t {
				found = append(found, image)
				break
			}
		}
	}
	return found
}

func forUpgrade(images []imagebuilder.Image) []imagebuilder.Image {
	for _, types := range upgradeTypes {
		if found := ofTypes(images, types...); len(found) > 0 {
			return found
		}
	}
	var rest []imagebuilder.Image
	for _, image := range images {
		part := false
		for _, prefix := range []string{"factory", "kernel", "rootfs", "initramfs", "manifest"} {
			part = part || strings.HasPrefix(image.Type, prefix)
		}
		if !part {
			rest = append(rest, image)
		}
	}
	if len(rest) != 1 {
		return nil
	}
	return rest
}
