package Plack::Middleware::AccessLimiter;

# Plack middleware: answers 401, 429 or 500 itself, or adds the RateLimit header fields to what the application answers.
#
#     use lib '/usr/local/share/access-limiter/clients';
#     enable 'AccessLimiter', LIMITER_ROOT => '/var/lib/my-app', LIMITER_LIMIT => '10/second';
#
# A setting that is not given here is an environment variable.

use strict;
use warnings;
use parent 'Plack::Middleware';
use Limiter ();

sub prepare_app {
    my ($self) = @_;
    $self->{$_} //= $ENV{$_} for grep { /\ALIMITER_/ } keys %ENV;
    return;
}

sub call {
    my ($self, $env) = @_;
    my ($status, $fields, $body) = Limiter::answer({ %$env, %$self });
    return [$status, $fields, [$body]] if $status != 200;
    return $self->response_cb(
        $self->app->($env),
        sub {
            my ($response) = @_;
            push @{ $response->[1] }, @$fields;
            return;
        },
    );
}

1;
