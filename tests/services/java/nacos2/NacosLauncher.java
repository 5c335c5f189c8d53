import com.alibaba.nacos.core.code.ControllerMethodsCache;
import com.alibaba.nacos.naming.NamingApp;
import com.alibaba.nacos.plugin.auth.exception.AccessException;
import com.alibaba.nacos.sys.filter.NacosTypeExcludeFilter;
import org.springframework.beans.factory.InitializingBean;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.AutoConfigurationExcludeFilter;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.boot.context.TypeExcludeFilter;
import org.springframework.boot.web.servlet.ServletComponentScan;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.ComponentScan;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.FilterType;
import org.springframework.context.annotation.Import;
import org.springframework.core.Ordered;
import org.springframework.core.annotation.Order;
import org.springframework.http.HttpStatus;
import org.springframework.http.ResponseEntity;
import org.springframework.scheduling.annotation.EnableScheduling;
import org.springframework.web.bind.annotation.ExceptionHandler;
import org.springframework.web.bind.annotation.RestControllerAdvice;

/**
 * Starts the naming, configuration and login modules of Nacos 2.x as one standalone server.
 *
 * The published modules have no program of their own: this is it. It adds the two things that the console module does in
 * the makers' own package: it tells the request filter which methods serve which path (without it nothing is checked for a
 * token), and answers a refused request with 403.
 */
@Configuration(proxyBeanMethods = false)
@EnableAutoConfiguration
@EnableScheduling
@ServletComponentScan("com.alibaba.nacos")
@ComponentScan(
    basePackages = "com.alibaba.nacos",
    excludeFilters = {
      @ComponentScan.Filter(
          type = FilterType.CUSTOM,
          classes = {NacosTypeExcludeFilter.class, TypeExcludeFilter.class, AutoConfigurationExcludeFilter.class}),
      @ComponentScan.Filter(type = FilterType.ASSIGNABLE_TYPE, classes = NamingApp.class)
    })
@Import(NacosLauncher.Refusal.class)
public class NacosLauncher {

  private static final String[] CONTROLLERS = {
    "com.alibaba.nacos.core.controller",
    "com.alibaba.nacos.naming.controllers",
    "com.alibaba.nacos.config.server.controller",
    "com.alibaba.nacos.plugin.auth.impl.controller",
  };

  public static void main(String[] arguments) {
    SpringApplication.run(NacosLauncher.class, arguments);
  }

  @Bean
  public InitializingBean controllerMethods(ControllerMethodsCache cache) {
    return () -> {
      for (String name : CONTROLLERS) {
        cache.initClassMethod(name);
      }
    };
  }

  /** A request without a valid token, or of a user without the right; asked before the modules' own, which answer "0". */
  @Order(Ordered.HIGHEST_PRECEDENCE)
  @RestControllerAdvice
  public static class Refusal {

    @ExceptionHandler(AccessException.class)
    public ResponseEntity<String> refused(AccessException refusal) {
      return ResponseEntity.status(HttpStatus.FORBIDDEN).body(refusal.getErrMsg());
    }
  }
}
