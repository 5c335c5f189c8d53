import com.alibaba.nacos.NacosServerBasicApplication;
import com.alibaba.nacos.NacosServerWebApplication;
import com.alibaba.nacos.console.NacosConsole;
import com.alibaba.nacos.core.listener.startup.NacosStartUp;
import com.alibaba.nacos.core.listener.startup.NacosStartUpManager;
import com.alibaba.nacos.sys.env.DeploymentType;
import com.alibaba.nacos.sys.env.EnvUtil;
import org.springframework.boot.WebApplicationType;
import org.springframework.boot.builder.SpringApplicationBuilder;
import org.springframework.context.ConfigurableApplicationContext;

/**
 * Starts Nacos 3.x as one standalone server; with the system property "hopmesh.console" also its console.
 *
 * The published modules have no program of their own: this is it. The order is the makers': the core without a web server,
 * then each web server as its child.
 */
public class NacosLauncher {

  public static void main(String[] arguments) {
    boolean console = Boolean.getBoolean("hopmesh.console");
    EnvUtil.setDeploymentType(console ? DeploymentType.MERGED : DeploymentType.SERVER);
    NacosStartUpManager.start(NacosStartUp.CORE_START_UP_PHASE);
    ConfigurableApplicationContext core =
        new SpringApplicationBuilder(NacosServerBasicApplication.class).web(WebApplicationType.NONE).run(arguments);
    startWeb(NacosStartUp.WEB_START_UP_PHASE, NacosServerWebApplication.class, core, arguments);
    if (console) {
      startWeb(NacosStartUp.CONSOLE_START_UP_PHASE, NacosConsole.class, core, arguments);
    }
  }

  private static void startWeb(
      String phase, Class<?> application, ConfigurableApplicationContext core, String[] arguments) {
    NacosStartUpManager.start(phase);
    new SpringApplicationBuilder(application).parent(core).run(arguments);
  }
}
