# The opkg generation: package lists, installing, the installed packages.
package Sample::Opkg;
use strict;
use warnings;
use Sample::Archive;
use Sample::Fetch;
use Sample::Rootfs;
use Sample::Tree;

sub new {
    my ($class, $tree) = @_;
    return bless { tree => $tree, errors => [], root => $tree->{root} }, $class;
}

# feeds reads repositories.conf.
sub feeds {
    my ($self) = @_;
    my @feeds;
    for (split /\n/, Sample::Tree::read_file("$self->{tree}{top}/repositories.conf") // '') {
        s/#.*//;
        if (/^\s*src(\/gz)?\s+(\S+)\s+(\S+)/) { push @feeds, { gz => $1, name => $2, url => $3 =~ s{/+$}{}r } }
        $self->{check} = 1 if /^\s*option\s+check_signature\b/;
    }
    return @feeds;
}

sub error { my ($self, @lines) = @_; push @{ $self->{errors} }, @lines; return }

# collected prints what went wrong, as opkg does at its end.
sub collected {
    my ($self) = @_;
    return if !@{ $self->{errors} };
    print STDERR "Collected errors:\n", map { "$_\n" } @{ $self->{errors} };
    $self->{errors} = [];
    return 1;
}

sub download_error {
    my ($self, $url, $code) = @_;
    $self->error(" * opkg_download: Failed to download $url, wget returned $code.");
    $self->error(' * opkg_download: Check your network settings and connectivity.', '') if $code == 4;
    return;
}

# reload indexes packages/ and asks every feed for its list again. A list that
# cannot be had leaves the one of an earlier run in place.
sub reload {
    my ($self) = @_;
    my $tree = $self->{tree};
    print STDERR "Package list missing or not up-to-date, generating it.\n\nBuilding package index...\n";
    $self->index_local;
    my @feeds  = $self->feeds;
    my $new    = "$tree->{top}/tmp/lists";
    system 'rm', '-rf', $new;
    my @remote = grep { $_->{url} !~ /^file:(?!\/)/ } @feeds;
    my $codes  = Sample::Fetch::fetch($new,
        map { my $feed = $_; map { [ "$feed->{url}/$_", "$feed->{name}.$_" ] } $feed->{gz} ? 'Packages.gz' : 'Packages', $self->{check} ? 'Packages.sig' : () } @remote);
    my @packed = grep { -e } map { "$new/$_->{name}.Packages.gz" } @remote;
    my %text;
    @text{@packed} = Sample::Archive::gunzip_files(@packed);
    my $said = '';
    for my $feed (@feeds) {
        my $index = $feed->{gz} ? 'Packages.gz' : 'Packages';
        my $list  = "$tree->{dl}/$feed->{name}";
        $said .= "Downloading $feed->{url}/$index\n";
        if ($feed->{url} =~ m{^file:([^/].*)}) {
            Sample::Tree::write_file($list, Sample::Tree::read_file("$tree->{top}/$1/$index") // '');
            $said .= "Updated list of available packages in $list\n";
            next;
        }
        if (my $code = $codes->{"$feed->{url}/$index"}) {
            $self->download_error("$feed->{url}/$index", $code);
            $said .= "*** Failed to download the package list from $feed->{url}/$index\n\n";
            next;
        }
        my $text = $feed->{gz} ? $text{"$new/$feed->{name}.Packages.gz"} : Sample::Tree::read_file("$new/$feed->{name}.Packages");
        Sample::Tree::write_file($list, $text // '');
        $said .= "Updated list of available packages in $list\n";
        next if !$self->{check};
        $said .= "Downloading $feed->{url}/Packages.sig\n";
        if (my $code = $codes->{"$feed->{url}/Packages.sig"}) {
            $self->download_error("$feed->{url}/Packages.sig", $code);
            $said .= "Signature file download failed.\nRemove wrong Signature file.\n";
            unlink $list;
            next;
        }
        if ($self->known_key("$new/$feed->{name}.Packages.sig")) { $said .= "Signature check passed.\n" }
        else {
            $said .= "Signature check failed.\nRemove wrong Signature file.\n";
            unlink $list;
        }
    }
    $self->collected;
    print STDERR $said;
    system 'rm', '-rf', $new;
    return 0;
}

# known_key tells whether a signature names a key that lies in keys/. The
# signature's bytes are not checked: see the package documentation.
sub known_key {
    my ($self, $file) = @_;
    my (undef, $line) = split /\n/, Sample::Tree::read_file($file) // '';
    my $blob = Sample::Archive::base64($line // '');
    return if length $blob < 10 || substr($blob, 0, 2) ne 'Ed';
    return -e "$self->{tree}{top}/keys/" . unpack 'H16', substr $blob, 2, 8;
}

# index_local lists the packages that were put into packages/.
sub index_local {
    my ($self) = @_;
    my $folder = "$self->{tree}{top}/packages";
    my @names = sort grep { /\.ipk$/ } do { opendir(my $in, $folder) or return; readdir $in };
    my $sums = Sample::Tree::sums(map { "$folder/$_" } @names);
    my $text = '';
    for my $name (@names) {
        my $ipk = open_ipk("$folder/$name") or next;
        (my $control = $ipk->{control}) =~ s/\s+\z//;
        my $more = "Filename: $name\nSize: " . (-s "$folder/$name") . "\nSHA256sum: $sums->{\"$folder/$name\"}";
        $control =~ s/^(Description:)/$more\n$1/m or $control .= "\n$more";
        $text .= "$control\n\n";
    }
    Sample::Tree::write_file("$folder/Packages", $text);
    return;
}

sub open_ipk {
    my ($file) = @_;
    my %ipk;
    my $outer = Sample::Archive::gunzip(Sample::Tree::read_file($file) // return) // return;
    for my $member (Sample::Archive::untar($outer)) {
        if ($member->{name} =~ m{^(?:\./)?(control|data)\.tar\.gz$}) {
            $ipk{$1} = [ Sample::Archive::untar(Sample::Archive::gunzip($member->{data}) // return) ];
        }
    }
    return if !$ipk{control} || !$ipk{data};
    my %meta = map { (Sample::Archive::clean_name($_->{name}) // '') => $_->{data} } @{ $ipk{control} };
    return { control => $meta{control} // '', postinst => $meta{postinst}, files => $ipk{data} };
}

# load reads all lists. The first feed wins among equal versions.
sub load {
    my ($self) = @_;
    return if $self->{byname};
    $self->{byname} = {};
    my @feeds = $self->feeds;
    for my $feed (@feeds) {
        for my $p (Sample::Tree::stanzas(Sample::Tree::read_file("$self->{tree}{dl}/$feed->{name}") // '')) {
            next if !defined $p->{Package};
            $p->{url} = $feed->{url} =~ m{^file:([^/].*)} ? "file:$self->{tree}{top}/$1/" : "$feed->{url}/";
            $p->{url} .= $p->{Filename} // '';
            $self->know($p);
        }
    }
    return;
}

sub know {
    my ($self, $p) = @_;
    $p->{depends}  = [ map { parse_dependency($_) } split /\s*,\s*/, $p->{Depends} // '' ];
    $p->{provides} = [ map { s/\s.*//r } split /\s*,\s*/, $p->{Provides} // '' ];
    push @{ $self->{byname}{$_} }, $p for $p->{Package}, grep { $_ ne $p->{Package} } @{ $p->{provides} };
    return;
}

sub parse_dependency {
    my ($text) = @_;
    $text =~ /^(\S+?)\s*(?:\(\s*(<<|<=|=|>=|>>|<|>)\s*(\S+?)\s*\))?$/ or return;
    return { name => $1, op => $2, version => $3 };
}

sub meets {
    my ($p, $d) = @_;
    return 1 if !defined $d->{op} || $p->{Package} ne $d->{name};
    my $order = compare($p->{Version}, $d->{version});
    return $order == 0 if $d->{op} eq '=';
    return $order < 0  if $d->{op} eq '<<';
    return $order > 0  if $d->{op} eq '>>';
    return $order <= 0 if $d->{op} =~ /^</;
    return $order >= 0;
}

# compare orders versions as Debian does: '~' before everything.
sub compare {
    my ($left, $right) = @_;
    my @parts = map { [ /(\d+|\D)/g ] } $left, $right;
    while (1) {
        my ($x, $y) = map { shift @$_ } @parts;
        return 0 if !defined $x && !defined $y;
        my @weight = map { !defined $_ ? -1 : $_ eq '~' ? -2 : /\d/ ? 0 : /[A-Za-z]/ ? 256 + ord : 512 + ord } $x, $y;
        return $weight[0] <=> $weight[1] if $weight[0] != $weight[1];
        return $x <=> $y if $weight[0] == 0 && $x != $y;
    }
}

sub installed_as {
    my ($self, $d) = @_;
    for my $p (@{ $self->{byname}{ $d->{name} } // [] }) {
        return $p if $self->{installed}{ $p->{Package} } && meets($p, $d);
    }
    return;
}

# candidate chooses the package that a word means: what is installed and
# provides it (unless the user asked for just that name and there is such a
# package), then, for a word of the user's, a package of that name. Of all that
# provide it a package of that name counts one more, and so does one that the
# user asked for; of equals it is the last by name and version.
sub candidate {
    my ($self, $d, $silent) = @_;
    my $have = $self->installed_as($d);
    return $have if $have && ($have->{Package} eq $d->{name} || !$d->{asked} || !grep { $_->{Package} eq $d->{name} } @{ $self->{byname}{ $d->{name} } });
    my @found = grep { meets($_, $d) } @{ $self->{byname}{ $d->{name} } // [] };
    return if !@found;
    my @good;
    for my $p (@found) {
        my ($missing) = grep { !$self->exists_for($_) } @{ $p->{depends} };
        if (!$missing) { push @good, $p; next }
        next if $silent;
        my $text = $missing->{name} . (defined $missing->{op} ? " ($missing->{op} $missing->{version})" : '');
        $self->error(" * pkg_hash_check_unresolved: cannot find dependency $text for $p->{Package}");
        $self->{missing} = $missing->{name};
    }
    if (!@good) {
        $self->error(" * pkg_hash_fetch_best_installation_candidate: Packages for $d->{name} found, but incompatible with the architectures configured") if !$silent;
        return;
    }
    my @named = grep { $_->{Package} eq $d->{name} } @good;
    @good = @named if $d->{asked} && @named;
    my $points = sub { ($_[0]{Package} eq $d->{name}) + !!$self->{asked}{ $_[0]{Package} } };
    @good = sort { $points->($a) <=> $points->($b) || $a->{Package} cmp $b->{Package} || compare($a->{Version}, $b->{Version}) } @good;
    return $good[-1];
}

sub exists_for {
    my ($self, $d) = @_;
    return scalar grep { meets($_, $d) } @{ $self->{byname}{ $d->{name} } // [] };
}

# install is `opkg install` of everything that the image wants.
sub install {
    my ($self) = @_;
    my $tree = $self->{tree};
    $self->load;
    my @wanted = $tree->packages;
    $self->{asked} = { map { $_ => 1 } @wanted };
    print "\nInstalling packages...\n";
    for my $name (qw(libc kernel)) {
        my ($file) = glob "$tree->{linux}/linux-$tree->{config}{LINUX_VERSION}/${name}_*.ipk";
        my $ipk = open_ipk($file // next) or next;
        my ($p) = Sample::Tree::stanzas($ipk->{control});
        my ($same) = grep { $_->{Package} eq $name && $_->{Version} eq $p->{Version} } @{ $self->{byname}{$name} // [] };
        $self->know($p) if !$same;
        print "Installing $name ($p->{Version}) to root...\n";
        $self->unpack($same // $p, $ipk) or return $self->failed;
        print "Configuring $name.\n";
    }
    $self->prefetch(@wanted);
    for my $name (@wanted) {
        if (!$self->{byname}{$name}) {
            print "Unknown package '$name'.\n";
            $self->error(" * opkg_install_cmd: Cannot install package $name.");
            next;
        }
        my $p = $self->candidate({ name => $name, asked => 1 });
        next if $p && $self->add($p, $name);
        $self->error(" * opkg_install_cmd: Cannot install package $name.");
    }
    $self->configure;
    $self->write_status;
    return $self->failed;
}

sub failed { my ($self) = @_; return $self->collected ? 255 : 0 }

# add installs a package after what it depends on.
sub add {
    my ($self, $p, $for) = @_;
    my $name = $p->{Package};
    if ($self->{installed}{$name}) {
        print "Package $name ($p->{Version}) installed in root is up to date.\n" if $name eq $for || grep { $_ eq $for } @{ $p->{provides} };
        return 1;
    }
    return 1 if $self->{adding}{$name};
    local $self->{adding}{$name} = 1;
    my @missing = $self->unmet($p, {});
    if (@missing) {
        $self->error(" * satisfy_dependencies_for: Cannot satisfy the following dependencies for $name:", map { " * \t$_" } @missing);
        return;
    }
    my @conflicts = grep { $_ ne $name } map { my $have = $self->installed_as({ name => $_ }); $have ? $have->{Package} : () }
        map { s/\s.*//r } split /\s*,\s*/, $p->{Conflicts} // '';
    if (@conflicts) {
        my %seen;
        $self->error(" * check_conflicts_for: The following packages conflict with $name:",
            ' * check_conflicts_for: ' . join '', map { "\t$_ * " } grep { !$seen{$_}++ } @conflicts);
        return;
    }
    print "Installing $name ($p->{Version}) to root...\n";
    my $ipk = $self->obtain($p) or return;
    for my $d (@{ $p->{depends} }) {
        my $other = $self->candidate($d, 1) or next;
        $self->add($other, '') or return;
    }
    return $self->unpack($p, $ipk);
}

# unmet returns the names, at any depth, that nothing answers to.
sub unmet {
    my ($self, $p, $seen) = @_;
    return if $seen->{ $p->{Package} }++;
    my @missing;
    for my $d (@{ $p->{depends} }) {
        next if $self->installed_as($d);
        delete $self->{missing};
        my $other = $self->candidate($d);
        if ($other) { push @missing, $self->unmet($other, $seen) }
        else        { push @missing, $self->{missing} // $d->{name} }
    }
    return @missing;
}

# prefetch downloads what is likely needed, all at once.
sub prefetch {
    my ($self, @wanted) = @_;
    my (%seen, @files, @all);
    my $walk;
    $walk = sub {
        my ($d) = @_;
        my $p = $self->candidate($d, 1) or return;
        return if $seen{ $p->{Package} }++;
        push @all, $p if !$self->{installed}{ $p->{Package} };
        $walk->($_) for @{ $p->{depends} };
    };
    $walk->({ name => $_, asked => 1 }) for @wanted;
    for my $p (@all) {
        my $file = $self->local_file($p);
        if (-e $file) { $self->{copied}{$file} = 1; next }
        push @files, [ $p->{url}, $p->{Filename} =~ s{.*/}{}r ];
    }
    $self->{codes} = Sample::Fetch::fetch($self->{tree}{dl}, @files) if @files;
    $self->{sums} = Sample::Tree::sums(grep { -e } map { $self->local_file($_) } @all);
    return;
}

sub local_file {
    my ($self, $p) = @_;
    return $1 if $p->{url} =~ m{^file:(/.+)} && $p->{url} !~ m{^file://};
    return "$self->{tree}{dl}/" . $p->{Filename} =~ s{.*/}{}r;
}

sub obtain {
    my ($self, $p) = @_;
    my $file = $self->local_file($p);
    if (!$self->{copied}{$file} && !exists $self->{codes}{ $p->{url} } && !-e $file) {
        $self->{codes}{ $p->{url} } = Sample::Fetch::fetch($self->{tree}{dl}, [ $p->{url}, $p->{Filename} =~ s{.*/}{}r ])->{ $p->{url} };
    }
    print $self->{copied}{$file} ? "Copying $file.\n" : "Downloading $p->{url}\n";
    if (my $code = $self->{codes}{ $p->{url} }) {
        $self->download_error($p->{url}, $code);
        $self->error(" * opkg_install_pkg: Failed to download $p->{Package}. Perhaps you need to run 'opkg update'?");
        return;
    }
    my $sum = $self->{sums}{$file} // Sample::Tree::sums($file)->{$file} // '';
    if ($sum ne ($p->{SHA256sum} // '') || -s $file != $p->{Size}) {
        $self->error(" * opkg_install_pkg: Checksum or size mismatch for package $p->{Package}. Either the opkg or the package index are corrupt. Try 'opkg update'.");
        unlink $file if $file =~ m{^\Q$self->{tree}{dl}\E/};
        return;
    }
    my $ipk = open_ipk($file);
    $self->error(" * pkg_extract: $file is not a package.") if !$ipk;
    return $ipk;
}

# unpack writes a package's files, after looking for clashes.
sub unpack {
    my ($self, $p, $ipk) = @_;
    my ($name, $root) = ($p->{Package}, $self->{root});
    my @files;
    for my $member (@{ $ipk->{files} }) {
        my $path = Sample::Archive::clean_name($member->{name});
        if (!defined $path || $member->{type} !~ /^[025]$/) {
            $self->error(" * pkg_extract: $name holds the unusable file $member->{name}.");
            return;
        }
        push @files, [ $path, $member ] if $path ne '';
    }
    for (@files) {
        my ($path, $member) = @$_;
        next if $member->{type} eq '5';
        my $owner = $self->{owner}{$path} // next;
        $self->error(" * check_data_file_clashes: Package $name wants to install file $root/$path", "\tBut that file is already provided by package  * $owner");
        return;
    }
    my $list = '';
    for (@files) {
        my ($path, $member) = @$_;
        if ($member->{type} eq '5') { Sample::Tree::make_folder("$root/$path"); next }
        Sample::Tree::make_folder("$root/$1") if $path =~ m{^(.+)/};
        if ($member->{type} eq '2') { unlink "$root/$path"; symlink $member->{link}, "$root/$path" or die "$root/$path: $!\n" }
        else                        { Sample::Tree::write_file("$root/$path", $member->{data}, $member->{mode}) }
        $self->{owner}{$path} = $name;
        $list .= "/$path\n";
    }
    my $info = "$root/usr/lib/opkg/info";
    Sample::Tree::make_folder($info);
    Sample::Tree::write_file("$info/$name.list",     $list,            0644);
    Sample::Tree::write_file("$info/$name.control",  $ipk->{control},  0644);
    Sample::Tree::write_file("$info/$name.postinst", $ipk->{postinst}, 0755) if defined $ipk->{postinst};
    $self->{installed}{$name} = $p;
    push @{ $self->{order} }, $p;
    return 1;
}

sub configure {
    my ($self) = @_;
    for my $p (@{ $self->{order} }) {
        my $name = $p->{Package};
        next if $name eq 'libc' || $name eq 'kernel';
        print "Configuring $name.\n";
        next if !-e "$self->{root}/usr/lib/opkg/info/$name.postinst";
        my $code = Sample::Rootfs::run_script($self->{root}, "usr/lib/opkg/info/$name.postinst") or next;
        $self->error(qq( * pkg_run_script: package "$name" postinst script returned status $code.), " * opkg_configure: $name.postinst returned $code.");
    }
    return;
}

sub write_status {
    my ($self) = @_;
    my $text = '';
    for my $p (sort { $a->{Package} cmp $b->{Package} } values %{ $self->{installed} }) {
        $text .= "Package: $p->{Package}\nVersion: $p->{Version}\n";
        for (qw(Depends Provides Conflicts ABIVersion)) { $text .= "$_: $p->{$_}\n" if defined $p->{$_} }
        $text .= "Status: install user installed\nArchitecture: $p->{Architecture}\nInstalled-Time: $self->{tree}{epoch}\n\n";
    }
    Sample::Tree::write_file("$self->{root}/usr/lib/opkg/status", $text, 0644);
    return;
}

# installed are the packages in the root: name, version, name without ABI.
sub installed {
    my ($self) = @_;
    return map {
        my $abi = $_->{ABIVersion} // '';
        { name => $_->{Package}, version => $_->{Version}, plain => $_->{Package} =~ s/-?\Q$abi\E$//r }
    } Sample::Tree::stanzas(Sample::Tree::read_file("$self->{root}/usr/lib/opkg/status") // '');
}

sub print_manifest {
    my ($self, $out, $strip) = @_;
    print $out map { "$_\n" } sort map { ($strip ? $_->{plain} : $_->{name}) . " - $_->{version}" } $self->installed;
    return 0;
}

sub postinsts {
    my ($self) = @_;
    return map { "usr/lib/opkg/info/$_.postinst" } grep { -e "$self->{root}/usr/lib/opkg/info/$_.postinst" } sort map { $_->{name} } $self->installed;
}

sub depends {
    my ($self, $name) = @_;
    $self->load;
    my $p = $self->candidate({ name => $name }, 1) or return 0;
    print "$p->{Package} depends on:\n", map { "\t$_->{name}" . ($_->{op} ? " ($_->{op} $_->{version})" : '') . "\n" } @{ $p->{depends} };
    return 0;
}

sub whatdepends {
    my ($self, $name) = @_;
    $self->load;
    my $p = $self->candidate({ name => $name }, 1) or return 0;
    print "Root set:\n  $p->{Package}\nWhat depends on root set\n";
    my %reached = map { $_ => 1 } $p->{Package}, @{ $p->{provides} };
    my %all = map { $_->{Package} => $_ } map { @$_ } values %{ $self->{byname} };
    for (my $more = 1; $more;) {
        $more = 0;
        for my $q (map { $all{$_} } sort keys %all) {
            next if $reached{ $q->{Package} };
            my ($via) = grep { $reached{ $_->{name} } } @{ $q->{depends} } or next;
            $reached{ $q->{Package} } = $more = 1;
            print "\t$q->{Package} $q->{Version}\tdepends on $via->{name}\n";
        }
    }
    return 0;
}

sub list {
    my ($self) = @_;
    $self->load;
    my %all = map { $_->{Package} => $_ } map { @$_ } values %{ $self->{byname} };
    print map { "$_->{Package} - $_->{Version} - $_->{Size} - " . ($_->{Description} // '') =~ s/^\s+//r . "\n" } map { $all{$_} } sort keys %all;
    return 0;
}

1;
