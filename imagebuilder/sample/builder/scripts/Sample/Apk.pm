# The apk generation: package indexes, choosing, installing.
package Sample::Apk;
use strict;
use warnings;
use Errno;
use Sample::Adb;
use Sample::Archive;
use Sample::Fetch;
use Sample::Opkg;
use Sample::Tree;

use constant FRESH => 4 * 3600;    # seconds that an index is not asked for again

sub new {
    my ($class, $tree) = @_;
    return bless { tree => $tree, root => $tree->{root} }, $class;
}

sub urls {
    my ($self) = @_;
    return grep { length } map { s/^\s+|\s+$//gr } map { s/(?:^|\s)#.*//r } split /\n/, Sample::Tree::read_file("$self->{tree}{top}/repositories") // '';
}

# cached is where the index of an address is kept.
sub cached {
    my ($self, $url) = @_;
    my $hash = 2166136261;
    $hash = (($hash ^ ord) * 16777619) & 0xffffffff for split //, $url;
    return sprintf 'APKINDEX.%08x.tar.gz', $hash;
}

# reload asks for indexes that are older than four hours. One that cannot be
# had leaves an old copy in place.
sub reload {
    my ($self) = @_;
    my $tree = $self->{tree};
    my (@wanted, %had);
    for my $url ($self->urls) {
        next if $url !~ m{^(?:https?|file):};
        my $file = "$tree->{dl}/" . $self->cached($url);
        $had{$url} = -e $file;
        push @wanted, [ $url, $self->cached($url) ] if !$had{$url} || $url =~ /^file:/ || time - (stat $file)[9] > FRESH;
    }
    my $codes = @wanted ? Sample::Fetch::fetch($tree->{dl}, @wanted) : {};
    for (@wanted) {
        my ($url, $name) = @$_;
        if (my $code = $codes->{$url}) {
            print STDERR "ERROR: wget: exited with error $code\nWARNING: updating ", ($had{$url} ? '' : 'and opening '), "$url: unexpected end of file\n";
        }
        else { utime undef, undef, "$tree->{dl}/$name" }
    }
    print "OK: 0 B in 0 packages\n" if !-e "$self->{root}/lib/apk/db/installed";
    return 0;
}

# load reads the indexes and the packages in packages/.
sub load {
    my ($self) = @_;
    return if $self->{byname};
    $self->{byname} = {};
    my $top  = $self->{tree}{top};
    my $keys = ($self->{tree}{config}{SIGNATURE_CHECK} // '') eq 'y' ? $self->trusted : undef;
    for my $url ($self->urls) {
        my $file = $url =~ m{^/} ? $url : "$self->{tree}{dl}/" . $self->cached($url);
        my $data = Sample::Tree::read_file($file);
        if (!defined $data) {
            print STDERR "WARNING: opening ", ($url =~ m{^/} ? '' : 'from cache '), "$url: No such file or directory\n";
            next;
        }
        my $doing = $url =~ m{^/} ? 'opening' : 'updating and opening';
        my ($packages, $signers) = Sample::Adb::read_index($data);
        if (!$packages) {
            print STDERR "WARNING: $doing $url: file format is invalid or inconsistent\n";
            next;
        }
        if ($keys && !grep { $keys->{$_} } @$signers) {
            print STDERR "WARNING: $doing $url: UNTRUSTED signature\n";
            next;
        }
        (my $folder = $url) =~ s{/[^/]*$}{};
        for (@$packages) { $_->{url} = "$folder/$_->{name}-$_->{version}.apk"; $self->know($_) }
    }
    for my $file (sort glob "$top/packages/*.apk") {
        my $apk = Sample::Adb::open_apk(Sample::Tree::read_file($file)) or next;
        $self->know({ %{ $apk->{info} }, file => $file });
    }
    return;
}

# trusted are the ids of the public keys in keys/: the beginning of the SHA-512
# of the curve's point. The signatures' bytes are not checked.
sub trusted {
    my ($self) = @_;
    my ($tmp, %ids) = ("$self->{tree}{top}/tmp/keys.$$");
    Sample::Tree::make_folder($tmp);
    for my $file (glob "$self->{tree}{top}/keys/*.pem") {
        my ($body) = (Sample::Tree::read_file($file) // '') =~ /-----BEGIN PUBLIC KEY-----\s*(.+?)\s*-----END/s or next;
        my $der = Sample::Archive::base64($body =~ s/\s//gr);
        Sample::Tree::write_file("$tmp/" . $file =~ s{.*/}{}r, substr $der, -65) if length $der > 65;
    }
    if (my @files = glob "$tmp/*") {
        open(my $from, '-|', 'sha512sum', '--', @files) or die "sha512sum: $!\n";
        while (my $line = <$from>) { $ids{ substr $line, 0, 32 } = 1 }
        close $from;
    }
    system 'rm', '-rf', $tmp;
    return \%ids;
}

sub know {
    my ($self, $p) = @_;
    push @{ $self->{byname}{ $p->{name} } }, { p => $p, version => $p->{version}, own => 1 };
    push @{ $self->{byname}{ $_->{name} } }, { p => $p, version => $_->{version} } for grep { $_->{name} ne $p->{name} } @{ $p->{provides} };
    return;
}

sub id { my ($p) = @_; return "$p->{name}-$p->{version}" }

# fits tells whether a version (undef for a provider without one) is what a
# dependency wants; the conflict bit is not looked at.
sub fits {
    my ($version, $d) = @_;
    return 1 if !defined $d->{version};
    return 0 if !defined $version;
    my $order = Sample::Opkg::compare($version, $d->{version});
    return $d->{match} & ($order < 0 ? 2 : $order > 0 ? 4 : 1);
}

sub text {
    my ($d) = @_;
    my $name = $d->{match} & 16 ? "!$d->{name}" : $d->{name};
    return $name if !defined $d->{version};
    return $name . { 1 => '=', 2 => '<', 3 => '<=', 4 => '>', 5 => '>=' }->{ $d->{match} & 7 } . $d->{version};
}

# choose finds a package for every name in the world and for what those need.
sub choose {
    my ($self, @world) = @_;
    my $byname = $self->{byname};
    my %asked  = map { $_ => 1 } @world;
    my (%chosen, %why, @missing, @breaks);
    my $config = $self->{tree}{config};
    my %pinned = (kernel => "kernel=$config->{LINUX_VERSION}~$config->{LINUX_VERMAGIC}-r1");
    my @todo   = map { [ { name => $_, match => 7 }, 'world[' . ($pinned{$_} // $_) . ']' ] } @world;
    my %seen;
    while (my $next = shift @todo) {
        my ($d, $by) = @$next;
        my @offers = @{ $byname->{ $d->{name} } // [] };
        if (!@offers) {
            push @missing, [ $d->{name}, $by ] if !$seen{"$d->{name} $by"}++;
            next;
        }
        my ($pick) = grep { $chosen{ $_->{p}{name} } && $chosen{ $_->{p}{name} } == $_->{p} } @offers;
        if (!$pick) {
            # A package that is asked for and stands in for another one, with a
            # version, wins over that one.
            ($pick) = grep { !$_->{own} && defined $_->{version} && $asked{ $_->{p}{name} } } @offers;
            my @good = grep { fits($_->{version}, $d) } @offers;
            @good = @offers if !@good;
            $pick //= (sort {
                       ($b->{own} // 0) <=> ($a->{own} // 0)
                    || ($asked{ $b->{p}{name} } // 0) <=> ($asked{ $a->{p}{name} } // 0)
                    || $b->{p}{priority} <=> $a->{p}{priority}
                    || Sample::Opkg::compare($b->{p}{version}, $a->{p}{version})
                    || $a->{p}{name} cmp $b->{p}{name}
            } @good)[0];
        }
        my $p = $pick->{p};
        push @{ $why{ $p->{name} } }, $by;
        push @breaks, [ $p, "$by" ] if !fits($pick->{version}, $d) && $by !~ /^world/;
        next if $chosen{ $p->{name} };
        $chosen{ $p->{name} } = $p;
        push @todo, map { [ $_, id($p) . '[' . text($_) . ']' ] } grep { !($_->{match} & 16) } @{ $p->{depends} };
    }
    for my $p (map { $chosen{$_} } sort keys %chosen) {
        for my $d (grep { $_->{match} & 16 } @{ $p->{depends} }) {
            for my $offer (@{ $byname->{ $d->{name} } // [] }) {
                my $other = $offer->{p};
                next if $other == $p || !$chosen{ $other->{name} } || $chosen{ $other->{name} } != $other;
                push @breaks, [ $other, id($p) . '[' . text($d) . ']' ];
            }
        }
    }
    my $problems = @missing + @breaks;
    if ($problems) {
        print STDERR "ERROR: unable to select packages:\n";
        print STDERR "  $_->[0] (no such package):\n    required by: $_->[1]\n" for sort { $a->[0] cmp $b->[0] } @missing;
        my (%by, %package);
        for (@breaks) {
            my ($p, $by) = @$_;
            $package{ id($p) } = $p;
            $by{ id($p) }{$by} = 1;
        }
        for my $id (sort keys %by) {
            my @breaks    = sort keys %{ $by{$id} };
            my @satisfies = grep { !$by{$id}{$_} } @{ $why{ $package{$id}{name} } };
            print STDERR "  $id:\n    breaks: ", join("\n            ", @breaks), "\n";
            print STDERR '    satisfies: ', join("\n               ", @satisfies), "\n" if @satisfies;
        }
        return (undef, $problems);
    }
    return (\%chosen, 0);
}

# install is `apk add` of everything that the image wants: nothing is touched
# before all is chosen. Scripts run later, when the root is finished.
sub install {
    my ($self) = @_;
    my $tree = $self->{tree};
    $self->load;
    print "\nInstalling packages...\n";
    my @world = $tree->packages;
    my ($chosen, $problems) = $self->choose(@world);
    return $problems > 99 ? 99 : $problems if $problems;
    my @order = $self->ordered($chosen, @world);
    my $files = $self->obtain(@order) or return 1;
    my ($number, $bytes, $database, $unowned) = (0, 0, '', 0);
    for my $p (@order) {
        my $apk = $files->{ $p->{name} };
        printf "(%d/%d) Installing %s (%s)\n", ++$number, scalar @order, $p->{name}, $p->{version};
        for my $member (@{ $apk->{files} }) {
            my $path = Sample::Archive::clean_name($member->{name});
            if (!defined $path || $path eq '') { print STDERR 'ERROR: ', id($p), ": file format is invalid or inconsistent\n"; return 1 }
            next if $member->{type} eq '5';
            next if !$self->{owner}{$path};
            print STDERR 'ERROR: ', id($p), ": trying to overwrite $path owned by $self->{owner}{$path}.\n";
            return 1;
        }
        for my $member (@{ $apk->{files} }) {
            my $path = "$self->{root}/" . Sample::Archive::clean_name($member->{name});
            if ($member->{type} eq '5') { Sample::Tree::make_folder($path); next }
            Sample::Tree::make_folder($1) if $path =~ m{^(.+)/};
            if ($member->{type} eq '2') { unlink $path; symlink $member->{link}, $path or die "$path: $!\n" }
            else {
                Sample::Tree::write_file($path, $member->{data}, $member->{mode});
                if (!given_to_root($path)) {
                    print STDERR 'WARNING: ', id($p), ': failed to preserve ', Sample::Archive::clean_name($member->{name}), ": owner\n";
                    $unowned++;
                }
            }
            $self->{owner}{ Sample::Archive::clean_name($member->{name}) } = id($p);
        }
        my $db = "$self->{root}/lib/apk/db";
        Sample::Tree::make_folder($db);
        Sample::Tree::write_file(sprintf('%s/%s.X%s.post-install', $db, id($p), unpack 'H40', $apk->{info}{hash}), $apk->{postinst}, 0755) if defined $apk->{postinst};
        $bytes    += $p->{installed};
        $database .= "C:X" . unpack('H40', $apk->{info}{hash}) . "\nP:$p->{name}\nV:$p->{version}\nA:$p->{arch}\nI:$p->{installed}\n";
        $database .= "g:openwrt:abiversion=$p->{abi}\n" if defined $p->{abi};
        $database .= "\n";
    }
    Sample::Tree::make_folder("$self->{root}/etc/apk");
    Sample::Tree::write_file("$self->{root}/etc/apk/world",        join('', map { "$_\n" } sort @world), 0644);
    Sample::Tree::write_file("$self->{root}/lib/apk/db/installed", $database, 0644);
    return $unowned > 99 ? 99 : $unowned if $unowned;
    printf "OK: %d KiB in %d packages\n", $bytes / 1024, scalar @order;
    return 0;
}

# given_to_root makes root a file's owner, below fakeroot as the real apk runs:
# an ordinary user's being refused is well, other failures are not.
sub given_to_root {
    my ($path) = @_;
    return $ENV{FAKEROOTDONTTRYCHOWN} || chown(0, 0, $path) || $!{EPERM};
}

# ordered puts every package after what it depends on.
sub ordered {
    my ($self, $chosen, @world) = @_;
    my (%done, @order, $walk);
    $walk = sub {
        my ($name) = @_;
        for my $offer (@{ $self->{byname}{$name} // [] }) {
            my $p = $offer->{p};
            next if !$chosen->{ $p->{name} } || $chosen->{ $p->{name} } != $p || $done{ $p->{name} }++;
            $walk->($_->{name}) for grep { !($_->{match} & 16) } @{ $p->{depends} };
            push @order, $p;
        }
    };
    $walk->($_) for @world;
    return @order;
}

# obtain downloads what is not there yet and opens all.
sub obtain {
    my ($self, @packages) = @_;
    my $tree = $self->{tree};
    my (@wanted, %file, %open, %container);
    for my $p (@packages) {
        my $name = sprintf '%s.%s.apk', id($p), unpack 'H8', $p->{hash};
        $file{ $p->{name} } = $p->{file} // ($p->{url} =~ m{^/} ? $p->{url} : "$tree->{dl}/$name");
        push @wanted, [ $p->{url}, $name ] if !-e $file{ $p->{name} };
    }
    my $codes = @wanted ? Sample::Fetch::fetch($tree->{dl}, @wanted) : {};
    my $tmp = "$tree->{top}/tmp/apk.$$";
    Sample::Tree::make_folder($tmp);
    my $good = 1;
    for my $p (@packages) {
        if (my $code = $codes->{ $p->{url} // '' }) {
            print STDERR "ERROR: wget: exited with error $code\nERROR: ", id($p), ": unexpected end of file\n";
            $good = 0;
            next;
        }
        my $apk = Sample::Adb::open_apk(Sample::Tree::read_file($file{ $p->{name} }) // '');
        if (!$apk) {
            print STDERR 'ERROR: ', id($p), ": file format is invalid or inconsistent\n";
            $good = 0;
            next;
        }
        $open{ $p->{name} } = $apk;
        next if $p->{file};
        Sample::Tree::write_file("$tmp/$p->{name}", $apk->{container});
    }
    my $sums = Sample::Tree::sums(grep { -e } map { "$tmp/$_->{name}" } @packages);
    for my $p (@packages) {
        my $sum = $sums->{"$tmp/$p->{name}"} // next;
        next if substr($sum, 0, 2 * length $p->{hash}) eq unpack 'H*', $p->{hash};
        print STDERR 'ERROR: ', id($p), ": file format is invalid or inconsistent\n";
        unlink $file{ $p->{name} };
        $good = 0;
    }
    system 'rm', '-rf', $tmp;
    return $good ? \%open : undef;
}

sub installed {
    my ($self) = @_;
    my @all;
    for (split /\n\n/, Sample::Tree::read_file("$self->{root}/lib/apk/db/installed") // '') {
        my %p;
        ($p{name})    = /^P:(.*)/m;
        ($p{version}) = /^V:(.*)/m;
        my ($abi) = /^g:openwrt:abiversion=(.*)/m;
        $p{plain} = defined $abi ? $p{name} =~ s/-?\Q$abi\E$//r : $p{name};
        push @all, \%p;
    }
    return @all;
}

sub print_manifest { goto &Sample::Opkg::print_manifest }

sub postinsts {
    my ($self) = @_;
    return map { "./lib/apk/db/$_" =~ s{^\./}{}r } map { s{.*/}{}r } sort glob "$self->{root}/lib/apk/db/*.post-install";
}

# ok is what apk says first to every question.
sub ok {
    my ($self) = @_;
    printf "OK: 0 KiB in %d packages\n", scalar(my @all = $self->installed);
    $self->load;
    return;
}

sub depends {
    my ($self, $name) = @_;
    $self->ok;
    my ($offer) = @{ $self->{byname}{$name} // [] } or return 1;
    print id($offer->{p}), " depends on:\n", (map { text($_) . "\n" } @{ $offer->{p}{depends} }), "\n";
    return 0;
}

sub whatdepends { my ($self) = @_; $self->ok; return 0 }
sub list        { my ($self) = @_; $self->ok; return 1 }

1;
